"""Pages: alignment and numbers for people."""

from __future__ import annotations

import pytest

from secateur.core.page import Line, Table, amount, change, plain, plural


def test_columns_are_aligned_and_lines_not_padded() -> None:
    table = Table(
        ("name", "n", "where"), (("a", "1,000", "x"), ("long", "2", "")), frozenset({0, 2})
    )
    assert plain([table]).splitlines() == ["name      n  where", "a     1,000  x", "long      2"]


def test_lines_come_in_order() -> None:
    assert plain([Line("one", title=True), Line("two", "warn")]) == "one\ntwo"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_999, "1000 kB")],
)
def test_amounts(value: int, text: str) -> None:
    assert amount(value, "B") == text


def test_changes_are_signed() -> None:
    assert change(100, 150) == "+50.0%"
    assert change(100, 100) == "+0.0%"
    assert change(0, 5) == ""


def test_plural_of_a_width() -> None:
    assert plural(2, "residual width") == "2 residual width"
    assert plural(1, "residual width") == "1 residual width"
