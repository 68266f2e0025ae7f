"""The blocks of a documentation page, and what they print.

`python tests/docs/worked.py docs/magnitude.md` runs a page and writes what its blocks print into
the `text` blocks behind them.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
_FENCE = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    mark: the comment on the line before it: `slow`, `needs NAME, NAME`, `slow; needs NAME`,
    `skip: why`, or nothing; of output, `differs: why`. start: where its text starts in the page.
    line: the number of its first line.
    """

    kind: str
    text: str
    mark: str
    start: int
    line: int

    @property
    def slow(self) -> bool:
        """Whether it runs with `pytest -m slow` only."""
        return self.mark.startswith("slow")

    @property
    def missing(self) -> str | None:
        """The first module that the block needs and that is not installed."""
        needed = self.mark.partition("needs ")[2]
        return next((name for name in needed.split(", ") if name and not find_spec(name)), None)


@dataclass(frozen=True)
class Run:
    """A block that was run, what it printed, and the `text` block right behind it, if any."""

    block: Block
    printed: str
    shown: Block | None


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page's text, in order."""
    found = []
    for fence in _FENCE.finditer(page):
        mark, kind, text = fence.groups(default="")
        line = page.count("\n", 0, fence.start(3)) + 1
        found.append(Block(kind, text, mark, fence.start(3), line))
    return found


def runs(path: Path, *, slow: bool) -> Iterator[Run]:
    """Run a page's Python blocks in order, in one namespace, up to one whose module is missing."""
    page = blocks(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": path.stem}
    for number, block in enumerate(page):
        if block.kind != "python" or block.mark.startswith("skip: "):
            continue
        if block.slow and not slow:
            continue
        if block.missing:
            return
        code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        after = [b for b in page[number + 1 : number + 2] if b.kind == "text"]
        yield Run(block, printed.getvalue(), after[0] if after else None)


def outline(output: str) -> list[str]:
    """The first word of every line, numbers made alike: what is the same on all machines."""
    return [_NUMBER.sub("0", line.split()[0]) for line in output.splitlines() if line.strip()]


@contextmanager
def registries_as_they_were() -> Iterator[None]:
    """What is registered inside is forgotten."""
    from secateur.allocate.allocator import allocators
    from secateur.graph.op import RULES
    from secateur.score.criterion import criteria
    from secateur.score.weight import weight_criteria

    tables: list[dict[Any, Any]] = [
        RULES, criteria._entries, weight_criteria._entries, allocators._entries
    ]  # fmt: skip
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)


def write(path: Path) -> None:
    """Run a page, and put what its blocks print into it."""
    text, moved = path.read_text(encoding="utf-8"), 0
    for run in runs(path, slow=True):
        if run.shown is not None:
            new = "".join(f"{line.rstrip()}\n" for line in run.printed.strip("\n").splitlines())
            start = run.shown.start + moved
            text = text[:start] + new + text[start + len(run.shown.text) :]
            moved += len(new) - len(run.shown.text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name).resolve()
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            write(page)
            os.chdir(ROOT)
