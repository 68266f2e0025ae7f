"""Units by name."""

from __future__ import annotations

from typing import Any

import pytest

import secateur as sc
from secateur.cli.units import units
from secateur.core.errors import RecipeError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("channel", [sc.Channel()]),
        ("Channel, HEAD,layer", [sc.Channel(), sc.Head(), sc.Layer()]),
        (["head", "layer"], [sc.Head(), sc.Layer()]),
        ("weight", [sc.Weight()]),
        ("row", [sc.Weight(per="row")]),
        ("2:4", [sc.NM(2, 4)]),
        ("4:8", [sc.NM(4, 8)]),
        ("block", [sc.Block(4, 1)]),
        ("1x16", [sc.Block(1, 16)]),
    ],
)
def test_names(given: Any, expected: list[Any]) -> None:
    assert units(given) == expected


def test_the_multiple_is_of_channels() -> None:
    assert units("channel,head", multiple=8) == [sc.Channel(multiple=8), sc.Head()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("chanel", "there is no unit 'chanel'"),
        ("", "there is no unit ''"),
        ("2:4:8", "there is no unit '2:4:8'"),
        ("4:2", "NM"),
        ("0x1", "Block"),
        (3, "expected names"),
        ({"channel": 1}, "expected names"),
    ],
)
def test_what_is_no_unit(given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        units(given)


def test_what_is_close_is_named() -> None:
    with pytest.raises(RecipeError) as caught:
        units("wieght")
    assert caught.value.hint == "did you mean weight?"
