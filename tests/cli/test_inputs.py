"""Example inputs from text."""

from __future__ import annotations

import pytest
import torch

from secateur.cli.inputs import example
from secateur.core.errors import InputError


def test_one_input_is_a_tensor_and_several_are_a_tuple() -> None:
    assert example(["2, 3"]).shape == (2, 3)
    first, second = example(["1,3", "4"])
    assert (first.shape, second.shape) == ((1, 3), (4,))


def test_names_and_dtypes() -> None:
    found = example(["x=1,3", "ids:int64=1,9", "mask:bool=1,9"], dtype="float64")
    assert {name: t.dtype for name, t in found.items()} == {
        "x": torch.float64,
        "ids": torch.int64,
        "mask": torch.bool,
    }
    assert set(found["ids"].unique().tolist()) <= {0, 1}
    assert found["mask"].all()


def test_integers_are_below_high() -> None:
    assert example([":int64=1000"], high=5).unique().tolist() == [0, 1, 2, 3, 4]
    assert example([":uint8=1000"], high=100_000).max() <= 255


def test_the_same_numbers_every_time() -> None:
    assert torch.equal(example(["3,3"]), example(["3,3"]))


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        ["a"],
        ["1,"],
        ["1,-2"],
        ["0,3"],
        ["99999,99999"],
        ["x=1", "2"],
        ["x=1", "x=2"],
        ["x:int=1"],
    ],
)
def test_wrong_inputs(inputs: list[str]) -> None:
    with pytest.raises(InputError):
        example(inputs)


def test_wrong_high() -> None:
    with pytest.raises(InputError):
        example(["1"], high=0)
