"""Rows made to fit an input."""

from __future__ import annotations

import math

import pytest
import torch

from secateur.cli.inputs import example
from secateur.cli.wanted import Wanted
from secateur.core.errors import InputError, RecipeError

IMAGE = torch.zeros(1, 3, 4, 5)


def test_pixels_move_and_scale() -> None:
    pixels = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    found = Wanted.of(IMAGE).fit("0", pixels, "x")
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    for n, h, w, c in ((0, 0, 0, 0), (1, 3, 4, 2), (1, 2, 1, 1)):
        assert found[n, c, h, w].item() == pytest.approx(pixels[n, h, w, c].item() / 255, abs=1e-7)


def test_channels_first_stay_also_where_both_would_do() -> None:
    pixels = torch.randint(0, 256, (2, 3, 3, 3), dtype=torch.uint8)
    found = Wanted.of(torch.zeros(1, 3, 3, 3)).fit("0", pixels, "x")
    assert torch.equal(found, pixels.float() / 255)


def test_grey_images_get_their_channel() -> None:
    rows = torch.rand(2, 4, 5)
    assert torch.equal(Wanted.of(torch.zeros(1, 1, 4, 5)).fit("0", rows, "x"), rows[:, None])


def test_other_numbers_keep_their_values() -> None:
    rows = torch.tensor([[1, -200]])
    assert Wanted.of(torch.zeros(1, 2)).fit("0", rows, "x").tolist() == [[1.0, -200.0]]
    doubles = torch.tensor([[0.5, 255.0]], dtype=torch.float64)
    found = Wanted.of(torch.zeros(1, 2)).fit("0", doubles, "x")
    assert found.dtype == torch.float32
    assert found.tolist() == [[0.5, 255.0]]


def test_mean_and_std_are_those_of_channels() -> None:
    rows = torch.rand(2, 3, 4, 5)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    found = Wanted.of(IMAGE, mean, std).fit("0", rows, "x")
    for c in range(3):
        torch.testing.assert_close(found[:, c], (rows[:, c] - mean[c]) / std[c])
    one = Wanted.of(torch.zeros(1, 7), (0.5,), (2.0,)).fit("0", torch.ones(2, 7), "x")
    torch.testing.assert_close(one, torch.full((2, 7), 0.25))


def test_only_the_first_input_is_normalised() -> None:
    wanted = Wanted.of((torch.zeros(1, 2), torch.zeros(1, 2)), (1.0,))
    assert wanted.fit("1", torch.ones(1, 2), "x").tolist() == [[1.0, 1.0]]
    assert wanted.fit("0", torch.ones(1, 2), "x").tolist() == [[0.0, 0.0]]


def test_integers_stay_integers() -> None:
    wanted = Wanted.of(example(["ids:int64=1,3"]))
    found = wanted.fit("ids", torch.tensor([[1, 2, 3]], dtype=torch.uint8), "ids")
    assert found.dtype == torch.int64
    assert found.tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match="holds float32, and the input int64"):
        wanted.fit("ids", torch.ones(1, 3), "ids")


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 3, 5, 4), (2, 60), (2, 3, 4, 5, 1), (2,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"samples of x have the shape .* wants \(3, 4, 5\)") as e:
        Wanted.of(IMAGE).fit("0", torch.zeros(shape), "x")
    assert e.value.hint is not None
    assert "--input 1" in e.value.hint


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_are_finite(bad: float) -> None:
    rows = torch.zeros(2, 3, 4, 5)
    rows[1, 2, 3, 4] = bad
    with pytest.raises(InputError, match="x holds 1 values that are not finite among 120"):
        Wanted.of(IMAGE).fit("0", rows, "x")


@pytest.mark.parametrize(
    ("inputs", "mean", "std"),
    [
        (IMAGE, (0.1, 0.2), None),
        (IMAGE, None, (0.1, 0.2, 0.3, 0.4)),
        (IMAGE, None, (0.0,)),
        (IMAGE, None, (1.0, -1.0, 1.0)),
        (IMAGE, None, (math.nan,)),
        (torch.zeros(1, 3, dtype=torch.int64), (0.5,), None),
    ],
)
def test_wrong_statistics(inputs: torch.Tensor, mean: object, std: object) -> None:
    with pytest.raises(RecipeError):
        Wanted.of(inputs, mean, std)  # type: ignore[arg-type]


def test_scalars_have_no_samples() -> None:
    with pytest.raises(InputError, match="scalar"):
        Wanted.of(torch.tensor(1.0))


def test_batches_are_what_loaders_give() -> None:
    a, b, y = torch.zeros(2, 3), torch.ones(2), torch.tensor([1, 0])
    one, two = Wanted.of(a), Wanted.of((a, b))
    named = Wanted.of({"a": a, "b": b})
    assert one.batch([a], None) is a
    assert one.batch([a], y) == (a, y)
    assert two.batch([a, b], None) == (a, b)
    assert two.batch([a, b], y) == (a, b, y)
    assert named.batch([a, b], y) == {"a": a, "b": b, "labels": y}
    assert named.batch([a, b], None) == {"a": a, "b": b}
