"""The same pages as `print` gives, in colour where the terminal has it."""

from __future__ import annotations

import os
import sys
from typing import IO, Protocol

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from secateur.core.page import Line, Page, Table, plain

_STYLES = {"plain": "", "good": "green", "warn": "yellow", "quiet": "dim"}


class Printable(Protocol):
    """A `Result`, an `Inspection`, or anything with a page."""

    @property
    def page(self) -> Page:
        """What is printed."""
        ...


def console(file: IO[str] | None = None) -> Console:
    """A console without colour unless the file is a terminal and `NO_COLOR` is not set.

    Lines are as long as their text where the file is no terminal, so that nothing wraps in a pipe.
    """
    target = sys.stdout if file is None else file
    terminal = target.isatty()
    colourless = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=target,
        width=None if terminal else 10_000,
        no_color=colourless,
        color_system=None if colourless else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def show(item: Printable, to: Console | None = None) -> None:
    """Print a result or an inspection; where there is no terminal, exactly as `print` does."""
    out = to or console()
    if not out.is_terminal:
        out.print(plain(item.page))
        return
    for part in item.page:
        out.print(_drawn(part))


def _drawn(part: Line | Table) -> RenderableType:
    if isinstance(part, Line):
        return Text(part.text, style="bold" if part.title else _STYLES[part.tone])
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, head in enumerate(part.columns):
        table.add_column(Text(head), justify="left" if index in part.left else "right")
    for row in part.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
