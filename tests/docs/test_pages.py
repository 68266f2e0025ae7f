"""The documentation: its code runs and prints what it shows, and its commands can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from worked import PAGES, ROOT, blocks, outline, registries_as_they_were, runs

import secateur as sc
from secateur.cli import app

WITH_README = [*PAGES, ROOT / "README.md"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _check(path: Path, *, slow: bool) -> None:
    with registries_as_they_were():
        for run in runs(path, slow=slow):
            if run.shown is not None and not run.shown.mark:
                where = f"{name(path)}, line {run.block.line}: run worked.py, see CONTRIBUTING.md"
                assert outline(run.printed) == outline(run.shown.text), f"{where}\n{run.printed}"
    for block in blocks(text(path)):
        if block.missing and slow >= block.slow:
            pytest.skip(f"{block.missing}, which line {block.line} needs, is not installed")


@pytest.mark.parametrize(
    "path", [p for p in PAGES if any(b.kind == "python" for b in blocks(text(p)))], ids=name
)
def test_code_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _check(path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in PAGES if any(b.slow for b in blocks(text(p)))], ids=name
)
def test_slow_code_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _check(path, slow=True)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_block_is_understood(path: Path) -> None:
    found = blocks(text(path))
    assert text(path).count("```") == 2 * len(found)
    for before, block in zip([None, *found], found, strict=False):
        assert re.fullmatch(r"|slow|(slow; )?needs \w+(, \w+)*|skip: .+|differs: .+", block.mark), (
            block.mark
        )
        assert block.kind in ("", "sh", "python", "text", "yaml"), block.kind
        if block.kind == "text":
            assert before is not None and before.kind == "python", "output of nothing"


@pytest.mark.parametrize("path", WITH_README, ids=name)
def test_commands_can_be_typed(path: Path) -> None:
    commands: Any = typer.main.get_command(app)
    for block in blocks(text(path)):
        for line in block.text.splitlines() if block.kind in ("", "sh") else ():
            if line.startswith("secateur "):
                command, *arguments = shlex.split(line, comments=True)[1:]
                commands.commands[command].make_context(command, arguments)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_recipes_can_be_read(path: Path, tmp_path: Path) -> None:
    found = [block for block in blocks(text(path)) if block.kind == "yaml"]
    if found:
        pytest.importorskip("yaml")
    from secateur.cli.recipe_file import read

    for block in found:
        (tmp_path / "recipe.yaml").write_text(block.text, encoding="utf-8")
        assert read(tmp_path / "recipe.yaml").prune


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_names_exist(path: Path) -> None:
    for found in re.findall(r"\bsc\.(\w+)", text(path)):
        assert found in sc.__all__, found


def test_the_check_itself(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 3\n```\n\n<!-- slow -->\n```python\nprint(x, 'is')\n```\n\n"
        "```text\n4 is\n```\n"
    )
    (first,) = runs(page, slow=False)
    assert (first.block.line, first.printed, first.shown) == (2, "", None)
    *_, last = runs(page, slow=True)
    assert last.shown is not None and outline(last.printed) == outline(last.shown.text) == ["0"]
    assert outline("took: 1\nall 2") != outline("took: 1")
    page.write_text("```python\nraise ValueError('no')\n```\n")
    with pytest.raises(ValueError, match="no"):
        list(runs(page, slow=False))
    page.write_text("<!-- needs no_such_module -->\n```python\nprint(1)\n```\n")
    assert list(runs(page, slow=True)) == [] and blocks(page.read_text())[0].missing
