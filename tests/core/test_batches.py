"""Examples in every form become one call, and a look at a model leaves no trace."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call, as_call, hooked, tensors_in, untouched
from secateur.core.errors import InputError


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x if y is None else x + y


@pytest.mark.parametrize(
    ("example", "count"),
    [
        (torch.zeros(2, 3), 1),
        ((torch.zeros(2, 3),), 1),
        ([torch.zeros(2, 3), torch.zeros(2)], 1),
        ((torch.zeros(2, 3), torch.zeros(2)), 1),
    ],
    ids=["tensor", "tuple", "loader's list", "batch for one argument"],
)
def test_forms_of_an_example(example: Any, count: int) -> None:
    call = as_call(nn.Linear(3, 1), example)
    assert len(call.args) == count
    assert call.run(nn.Linear(3, 1)).shape == (2, 1)


def test_a_tuple_fills_as_many_arguments_as_there_are() -> None:
    assert len(as_call(Two(), (torch.zeros(1), torch.zeros(1))).args) == 2


def test_a_dict_is_keyword_arguments() -> None:
    call = as_call(Two(), {"x": torch.ones(2), "y": torch.ones(2)})
    assert torch.equal(call.run(Two()), torch.full((2,), 2.0))


def test_a_list_of_images_of_several_sizes_is_one_argument() -> None:
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)]
    assert as_call(nn.Identity(), images).args == (images,)


@pytest.mark.parametrize("example", [(), [], {}, 3, "x", {"x": 1}])
def test_bad_examples_are_refused_with_a_hint(example: Any) -> None:
    with pytest.raises(InputError, match="hint:"):
        as_call(nn.Linear(3, 1), example)


def test_tensors_are_found_in_any_object() -> None:
    @dataclass
    class Out:
        a: Tensor
        b: list[Tensor]

    class Slotted:
        __slots__ = ("x",)

        def __init__(self) -> None:
            self.x = torch.zeros(1)

    class SomeCache:
        def __init__(self) -> None:
            self.keys = torch.zeros(9)

    value = (Out(torch.zeros(2), [torch.zeros(3)]), SimpleNamespace(t=torch.zeros(4)), Slotted())
    assert [t.numel() for t in tensors_in((*value, SomeCache(), {"k": torch.zeros(5)}))] == [
        2, 3, 4, 1, 5,
    ]  # fmt: skip


class Restless(nn.Module):
    """Counts, caches and draws in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.cache: dict[str, Tensor] = {}
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache["x"] = x
        self.last = x
        self.seen += 1
        return x + torch.rand_like(x)


def test_untouched_puts_everything_back() -> None:
    model = Restless().train()
    fields, state = set(model.__dict__), torch.random.get_rng_state()
    with untouched(model):
        assert not model.training
        Call((torch.zeros(2),), {}).run(model)
        assert model.calls == 1
    assert model.training
    assert (model.calls, model.cache, set(model.__dict__)) == (0, {}, fields)
    assert float(model.seen) == 0.0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_untouched_also_after_an_error() -> None:
    model = Restless().train()
    with pytest.raises(RuntimeError), untouched(model):
        model.calls = 5
        raise RuntimeError
    assert model.training and model.calls == 0


def test_hooks_go_whatever_happens() -> None:
    net, seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), list[str]()

    def fails(hook: Any) -> Any:
        raise RuntimeError("not here")

    pairs = [(layer.register_forward_hook, lambda *_: seen.append("ran")) for layer in net]
    with pytest.raises(ZeroDivisionError), hooked(pairs):
        net(torch.zeros(1, 2))
        raise ZeroDivisionError
    assert seen == ["ran", "ran"] and not any(layer._forward_hooks for layer in net)
    with pytest.raises(RuntimeError, match="not here"), hooked([*pairs, (fails, print)]):
        pass
    assert not any(layer._forward_hooks for layer in net)
