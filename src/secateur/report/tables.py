"""The same pages as `print` gives, in colour where the terminal has it."""

from __future__ import annotations

import os
import sys
from typing import IO, Protocol

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from secateur.core.page import Line, Page, Table

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
    plain = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=target,
        width=None if terminal else 10_000,
        no_color=plain,
        color_system=None if plain else "auto",
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def show(item: Printable, to: Console | None = None) -> None:
    """Print a result or an inspection."""
    out = to or console()
    for part in item.page:
        out.print(_drawn(part, plain=not out.is_terminal))


def _drawn(part: Line | Table, *, plain: bool) -> RenderableType:
    if isinstance(part, Line):
        return Text(part.text, style="bold" if part.title else _STYLES[part.tone])
    table = RichTable(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, head in enumerate(part.columns):
        justify = "left" if index in part.left else "right"
        table.add_column(Text(head), justify=justify, no_wrap=plain, overflow="fold")
    for row in part.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
