"""Sections of markdown pages that several scripts write to."""

from __future__ import annotations

import re
from pathlib import Path


def section(path: Path, title: str) -> str | None:
    """The text of a section (`## title` and what follows up to the next one), or None."""
    if not path.exists():
        return None
    found = re.search(_pattern(title), path.read_text())
    return None if found is None else found[0].rstrip()


def put(path: Path, title: str, body: str) -> None:
    """Write a section: in place of that of the same title, or at the page's end."""
    text = path.read_text() if path.exists() else ""
    new = f"## {title}\n\n{body.strip()}\n"
    if section(path, title) is None:
        path.write_text(f"{text.rstrip()}\n\n{new}".lstrip())
    else:
        path.write_text(re.sub(_pattern(title), lambda _: new + "\n", text).rstrip() + "\n")


def _pattern(title: str) -> str:
    return rf"(?ms)^## {re.escape(title)}\n.*?(?=^## |\Z)"
