"""Comparing outputs."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from apply_nets import Snapshot, convnet, half, images, mlp, points
from torch import Tensor, nn

from secateur.apply import verify
from secateur.apply.verify import compare, double_copy, in_double, mismatch, run_detached
from secateur.core.batches import Call

Pair = namedtuple("Pair", "first second")


@dataclass
class Output:
    """As the transformers library returns it."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    name: str = "x"


def test_equal_outputs() -> None:
    found = compare(torch.ones(3), torch.ones(3))
    assert found.ok and found.difference == 0 and found.note == ""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t, lambda t: [t], lambda t: (t, t), lambda t: {"a": {"b": t}},
        lambda t: Pair(t, [t]), lambda t: Output(t, (t, t)), lambda t: [None, "text", t],
    ],
)  # fmt: skip
def test_differences_are_found_in_every_container(wrap: Any) -> None:
    a, b = torch.ones(3), torch.tensor([1.0, 1.0, 1.1])
    assert compare(wrap(a), wrap(a.clone())).ok
    found = compare(wrap(a), wrap(b))
    assert not found.ok and found.difference == pytest.approx(0.1, rel=1e-5)


def test_shapes_and_numbers_of_outputs() -> None:
    assert compare(torch.ones(2), torch.ones(1, 2)).note == "shapes (2,) and (1, 2)"
    assert compare([torch.ones(2)] * 2, torch.ones(2)).note == "2 and 1 output tensors"
    assert not compare(torch.ones(2), torch.ones(3)).ok


@pytest.mark.parametrize(
    ("dtype", "small", "large"),
    [
        (torch.float64, 1e-9, 1e-5),
        (torch.float32, 1e-5, 1e-3),
        (torch.bfloat16, 1e-2, 0.2),
        (torch.float16, 2e-3, 0.1),
    ],
)
def test_the_tolerance_follows_the_type(dtype: torch.dtype, small: float, large: float) -> None:
    a = torch.ones(4, dtype=dtype)
    assert compare(a, a + small).ok
    assert not compare(a, a + large).ok


def test_each_output_has_its_own_tolerance() -> None:
    coarse, fine = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float64)
    assert compare([coarse, fine], [coarse + 0.01, fine]).ok
    assert not compare([coarse, fine], [coarse, fine + 0.01]).ok


def test_differences_are_relative_to_the_largest_value() -> None:
    a = torch.tensor([1e6, 1.0])
    assert compare(a, a + torch.tensor([0.0, 1.0])).ok
    assert not compare(a * 1e-9, (a + torch.tensor([0.0, 1e4])) * 1e-9).ok


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_must_be_in_the_same_places(value: float) -> None:
    a = torch.tensor([1.0, value, 2.0])
    assert compare(a, a.clone()).ok
    assert not compare(a, torch.tensor([1.0, 2.0, value])).ok
    assert not compare(a, torch.tensor([1.0, 1.0, 2.0])).ok
    assert not compare(torch.tensor([1.0, 1.0, 2.0]), a).ok


def test_infinities_have_signs() -> None:
    plus, minus = torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")])
    assert compare(plus, plus.clone()).ok
    assert not compare(plus, minus).ok
    assert not compare(plus, torch.tensor([1.0, float("nan")])).ok


def test_integers_and_booleans_must_be_equal() -> None:
    a = torch.tensor([1, 2, 3])
    assert compare(a, a.clone()).ok
    assert "int64" in compare(a, a + 1).note
    assert compare(a > 1, a > 1).ok and not compare(a > 1, a > 2).ok


def test_complex_and_empty_outputs() -> None:
    a = torch.randn(3, dtype=torch.complex64)
    assert compare(a, a.clone()).ok and not compare(a, a.conj().resolve_conj() + 1).ok
    assert compare(torch.zeros(0, 3), torch.zeros(0, 3)).ok
    assert not compare(torch.zeros(0, 3), torch.zeros(0, 4)).ok


def test_zeros() -> None:
    assert compare(torch.zeros(3), torch.zeros(3)).ok
    assert not compare(torch.zeros(3), torch.ones(3)).ok


def test_running_leaves_no_trace() -> None:
    model = convnet().train()
    model.append(nn.Dropout(0.5))
    before = Snapshot(model)
    first = run_detached(model, Call((images(),), {}))
    assert not first.requires_grad
    after = Snapshot(model)
    assert torch.equal(before.rng, after.rng) is False  # images() drew
    torch.set_rng_state(before.rng)
    before.check()


def test_double_precision() -> None:
    model = mlp()
    double = double_copy(model)
    assert double is not None and double[0].weight.dtype == torch.float64
    assert model[0].weight.dtype == torch.float32
    call = in_double(Call((points(), torch.arange(3)), {"mask": torch.ones(2)}))
    assert [t.dtype for t in call.args] == [torch.float64, torch.int64]
    assert call.kwargs["mask"].dtype == torch.float64


def test_a_large_model_gets_no_second_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_DOUBLE_LIMIT", 10)
    assert double_copy(mlp()) is None


def test_a_model_that_cannot_be_copied_gets_no_second_opinion() -> None:
    class Unique(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Unique:
            raise TypeError("there is only one")

    assert double_copy(Unique(2, 2)) is None


def test_the_message_says_what_differs() -> None:
    plan = half(mlp(), points())
    error = mismatch(plan, compare(torch.ones(2), torch.ones(3)))
    assert "shapes (2,) and (3,)" in str(error) and "hint: " in str(error)
    error = mismatch(plan, compare(torch.ones(2), torch.ones(2) * 2))
    assert "relative difference 1 > 0.0002" in str(error) and "masked original" in str(error)
