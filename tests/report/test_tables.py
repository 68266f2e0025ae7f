"""Tables in the terminal, in a pipe, and without colour."""

from __future__ import annotations

import io

import pytest

from secateur.core.page import Line, Page, Table, plain
from secateur.report.tables import console, show


class Shown:
    page: Page = (
        Line("Net", title=True),
        Table(("", "before", "after"), (("bytes [x]", "10 kB", "5 kB"), ("MACs", "7", "3"))),
        Line("verified " + "long " * 40, "good"),
        Line("[bold]not markup[/bold]", "warn"),
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_what_print_gives() -> None:
    out = io.StringIO()
    show(Shown(), console(out))
    assert out.getvalue() == plain(Shown.page) + "\n"


def test_a_terminal_gets_colour_and_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    show(Shown(), console(out))
    text = out.getvalue()
    assert "\x1b[" in text
    for cell in ("bytes [x]", "10 kB", "5 kB", "MACs", "[bold]not markup[/bold]"):
        assert cell in text


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    show(Shown(), console(out))
    assert "\x1b[3" not in out.getvalue()
    assert "10 kB" in out.getvalue()
