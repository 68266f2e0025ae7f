"""Quantities as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from secateur.core.errors import RecipeError
from secateur.core.quantity import amount, milliseconds, number, percent, plain, share, to_float


@pytest.mark.parametrize(
    ("text", "value"), [("4ms", 4), ("0.5 s", 500), (" 250 US ", Fraction(1, 4)), (".5ms", 0.5)]
)
def test_times(text: str, value: float) -> None:
    assert milliseconds("Latency", text) == value


@pytest.mark.parametrize("text", ["", "4", "4 h", "-1ms", "1e999", "nan ms", "ms"])
def test_times_refuse(text: str) -> None:
    with pytest.raises(RecipeError):
        milliseconds("Latency", text)


def test_numbers_are_exact() -> None:
    assert number("Params", 0.1) == Fraction(1, 10)
    assert share("12.5%") == Fraction(1, 8)
    assert share("12.5") is None
    assert amount("Bytes", "1.5KiB", bytes_allowed=True) == 1536
    assert plain(Fraction(1, 8)) == "0.125"
    assert percent(Fraction(50)) == "0.5"
    with pytest.raises(RecipeError, match="not a number"):
        to_float("Params", "many")
