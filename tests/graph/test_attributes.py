"""Integers stored in a model's Python: found wherever they are, and put back whatever happens."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import UnsupportedModel
from secateur.graph import analyze
from secateur.graph.attributes import AttributeTracer, Slot
from secateur.graph.sizes import TracedInt


@dataclass
class Config:
    width: int = 8
    depths: list[int] = field(default_factory=lambda: [2, 3])
    nested: dict[str, Any] = field(default_factory=lambda: {"heads": 4, "sizes": (5, 6)})
    flag: bool = True
    rate: float = 0.5
    name: str = "n"


class Pair(NamedTuple):
    height: int
    width: int


class Holder(nn.Module):
    """Sizes in every place that people put them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.plain = 7
        self.one, self.zero, self.negative, self.flag = 1, 0, -3, True
        self.items = [8, (9, [10, 11])]
        self.pair = Pair(12, 13)
        self.table = {"a": 14, "b": {"c": 15}}
        self.space = SimpleNamespace(n=16)
        self.shape = torch.Size([17, 18])
        self.ordered = OrderedDict(x=19)
        self.linear = nn.Linear(3, 20)
        self.callback = lambda: 21

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def integers(value: Any, found: list[int], seen: set[int]) -> list[int]:
    """Every integer inside plain containers and objects."""
    if id(value) in seen:
        return found
    seen.add(id(value))
    if isinstance(value, int) and not isinstance(value, bool):
        found.append(value)
    elif isinstance(value, dict):
        for item in value.values():
            integers(item, found, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            integers(item, found, seen)
    elif isinstance(value, (nn.Module, Config, SimpleNamespace)):
        integers(vars(value), found, seen)
    return found


def traced(model: nn.Module) -> list[int]:
    return [n for n in integers(model, [], set()) if type(n) is TracedInt]


def snapshot(model: nn.Module) -> dict[str, Any]:
    hidden = {"_parameters", "_modules", "_buffers", "linear", "callback"}
    return {k: copy.deepcopy(v) for k, v in vars(model).items() if k not in hidden}


def test_integers_are_found_wherever_they_are() -> None:
    model, tracer = Holder(Config()), AttributeTracer()
    with tracer.traced(model):
        found = {slot.path: slot.value for slot in tracer.slots.values() if slot.module == ""}
        assert sorted(traced(model)) == sorted(slot.value for slot in tracer.slots.values())
    assert found == {
        "config.width": 8, "config.depths.0": 2, "config.depths.1": 3, "config.nested.heads": 4,
        "config.nested.sizes.0": 5, "config.nested.sizes.1": 6, "plain": 7, "items.0": 8,
        "items.1.0": 9, "items.1.1.0": 10, "items.1.1.1": 11, "pair.0": 12, "pair.1": 13,
        "table.a": 14, "table.b.c": 15, "space.n": 16, "shape.0": 17, "shape.1": 18,
        "ordered.x": 19,
    }  # fmt: skip
    assert Slot("linear", "out_features", 20) in tracer.slots.values()


def test_the_kinds_of_containers_stay() -> None:
    model = Holder(Config())
    with AttributeTracer().traced(model):
        assert type(model.pair) is Pair and model.pair.height == 12
        assert type(model.shape) is torch.Size and type(model.ordered) is OrderedDict
        assert type(model.items[1]) is tuple and type(model.config) is Config


def test_everything_is_put_back() -> None:
    model = Holder(Config())
    before, identities = snapshot(model), {k: id(v) for k, v in vars(model).items()}
    with AttributeTracer().traced(model):
        pass
    assert snapshot(model) == before and traced(model) == []
    assert {k: id(v) for k, v in vars(model).items()} == identities


def test_everything_is_put_back_after_an_exception() -> None:
    model = Holder(Config())
    before = snapshot(model)
    with pytest.raises(RuntimeError), AttributeTracer().traced(model):
        raise RuntimeError
    assert snapshot(model) == before and traced(model) == []


def test_what_the_run_changed_itself_stays_changed_but_plain() -> None:
    model = Holder(Config())
    with AttributeTracer().traced(model):
        model.plain = model.plain + 1  # type: ignore[assignment]
        model.items.append(model.plain)
        model.cache = {"n": model.table["a"], "more": (model.plain, [model.zero])}
        model.config.depths = [9]
    assert model.plain == 8 and model.items[-1] == 8 and model.config.depths == [9]
    assert model.cache == {"n": 14, "more": (8, [0])}
    assert traced(model) == []


def test_a_shared_object_is_traced_once_under_its_first_name() -> None:
    config = Config()
    model = nn.Sequential(Holder(config), Holder(config))
    tracer = AttributeTracer()
    with tracer.traced(model):
        assert model[0].config.width is model[1].config.width
        slots = [slot for slot in tracer.slots.values() if slot.path == "config.width"]
    assert slots == [Slot("0", "config.width", 8)]
    assert config == Config()


def test_loops_between_objects_end() -> None:
    model = Holder(Config())
    model.items.append(model.items)
    model.table["self"] = model.table
    model.space.me = model.space
    with AttributeTracer().traced(model):
        assert type(model.plain) is TracedInt
    assert type(model.items[0]) is int


def test_values_below_two_and_other_types_stay_as_they_are() -> None:
    model = Holder(Config())
    with AttributeTracer().traced(model):
        for value in (model.one, model.zero, model.negative, model.flag, model.config.flag):
            assert type(value) in (int, bool)
        assert type(model.config.rate) is float and model.config.name == "n"


class Storing(nn.Module):
    """Keeps what it computed on itself, and may raise."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.fail, self.heads = fail, 2
        self.inner, self.out = nn.Linear(4, 8), nn.Linear(4, 3)
        self.seen: list[Any] = []
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        self.last = (y.shape[1] // self.heads, y.shape)
        self.seen.append(y.shape[1])
        if self.fail:
            raise RuntimeError("no")
        return self.out(y.view(-1, self.heads, self.last[0]).sum(1))


def test_analysis_leaves_no_trace_on_the_model() -> None:
    model = Storing()
    before = dict(vars(model))
    analyze(model, torch.zeros(2, 4))
    assert vars(model) == before and model.seen == [] and model.last is None
    assert type(model.heads) is int and type(model.inner.out_features) is int


def test_analysis_leaves_no_trace_after_a_failure() -> None:
    model = Storing(fail=True)
    with pytest.raises(UnsupportedModel, match="RuntimeError: no"):
        analyze(model, torch.zeros(2, 4))
    assert type(model.heads) is int and model.seen == [] and model.last is None
    assert type(model.inner.out_features) is int


def test_class_attributes_are_not_written() -> None:
    class Shared(nn.Module):
        width = 6

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(4, 6), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(x).view(-1, 2, self.width // 2).sum(1))

    model = Shared()
    analyze(model, torch.zeros(2, 4))
    assert "width" not in vars(model) and type(Shared.width) is int
