"""The contract tests themselves: they must catch what is wrong, and say where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.layout import Fixed, Leaf
from secateur.core.scope import Scope
from secateur.core.site import Site, Slice
from secateur.graph.axes import Axis, product
from secateur.graph.graph import Graph
from secateur.graph.op import RULES, Op
from secateur.graph.rules.pointwise import pointwise
from secateur.score import Facts, criterion
from secateur.testing import check_allocator, check_criterion, check_rule, check_unit
from secateur.units import Channel

aten = torch.ops.aten


def kept(op: Op) -> None:
    op.give(op.out, op.axes(op.args["self"]))


def dropped(op: Op) -> None:
    """A reduction that forgets to say that it reduces."""
    axes, dims = op.axes(op.args["self"]), op.args["dim"]
    op.give(op.out, [axis for d, axis in enumerate(axes) if d not in dims])


def swapped(op: Op) -> None:
    op.give(op.out, op.axes(op.args["self"])[::-1])


def merged_backwards(op: Op) -> None:
    op.give(op.out, [product(op.axes(op.args["self"])[::-1])])


def contracted_zero(op: Op) -> None:
    """A maximum that is treated as a sum."""
    axes = op.axes(op.args["self"])
    op.contract(op.args["self"], 1)
    op.give(op.out, axes[:1])


def too_free(op: Op) -> None:
    op.give(op.out, [Axis(size) for size in op.out.shape])


def crashing(op: Op) -> None:
    raise ValueError("not today")


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) - 3
WRONG: list[Any] = [
    pytest.param(aten.roll, pointwise, (X, [1], [1]), "is wrong", id="roll as pointwise"),
    pytest.param(aten.flip, kept, (X, [0]), "is wrong", id="flip as pointwise"),
    pytest.param(aten.cumsum, kept, (X, 1), "is wrong", id="cumsum as pointwise"),
    pytest.param(aten._softmax, kept, (X, 1, False), "is wrong", id="softmax that does not say so"),
    pytest.param(aten.sum, dropped, (X, [1]), "is wrong", id="sum that does not say so"),
    pytest.param(aten.mean, dropped, (X, [1]), "is wrong", id="mean that does not say so"),
    pytest.param(aten.amax, contracted_zero, (X, [1]), "is wrong", id="maximum as a sum"),
    pytest.param(aten.permute, kept, (X, [1, 0]), "has shape", id="permute the wrong way"),
    pytest.param(aten.clone, swapped, (X,), "has shape", id="transposed clone"),
    pytest.param(aten.view, merged_backwards, (X, [-1]), "is wrong", id="merge in another order"),
    pytest.param(aten.exp, too_free, (X,), "has shape", id="output tied to nothing"),
    pytest.param(aten.tril, kept, (X,), "is wrong", id="triangle as pointwise"),
    pytest.param(aten.exp, crashing, (X,), "not today", id="rule that raises"),
    pytest.param(aten.exp, dropped, (X,), "does not cover", id="rule for other arguments"),
]


@pytest.mark.parametrize(("op", "rule", "args", "message"), WRONG)
def test_a_wrong_rule_is_caught(
    op: Any, rule: Callable[[Op], None], args: tuple[Any, ...], message: str, monkeypatch: Any
) -> None:
    monkeypatch.setitem(RULES, op, rule)
    with pytest.raises(AssertionError, match=message):
        check_rule(op, *args)


def test_an_operation_without_a_rule_is_reported(monkeypatch: Any) -> None:
    monkeypatch.delitem(RULES, aten.roll)
    with pytest.raises(AssertionError, match=r"no rule for aten\.roll"):
        check_rule(aten.roll, X, [1], [1])


def test_the_message_names_operation_axis_and_what_was_kept(monkeypatch: Any) -> None:
    monkeypatch.setitem(RULES, aten.roll, pointwise)
    message = r"roll with b keeping \[.*\]: output 0, believed to be a b, is wrong"
    with pytest.raises(AssertionError, match=message):
        check_rule(aten.roll, X, [1], [1])


def test_too_many_freezes_show_in_the_line() -> None:
    assert check_rule(torch.sort, X, 1) == "a 4 -> a 4, a 4"


def test_sizes_that_cannot_follow_are_frozen() -> None:
    assert check_rule(lambda x: x.view(4, 2, 2), X) == "4 4 -> 4 2 2"


def test_arguments_and_random_state_stay_as_they_are() -> None:
    x, state = X.clone(), torch.random.get_rng_state()
    assert check_rule(torch.relu_, x) == "a b -> a b"
    assert check_rule(torch.Tensor.transpose_, x, 0, 1) == "a b -> b a"
    assert check_rule(torch.rand_like, x) == "4 4 -> 4 4"
    assert x.equal(X) and state.equal(torch.random.get_rng_state())


def test_the_same_tensor_twice_is_one() -> None:
    assert check_rule(torch.mm, X, X) == "a a -> a a"


# --- criteria -------------------------------------------------------------------------------------


def norm(site: Site, facts: Facts) -> Tensor:
    if site.module is not None:
        sums = [facts.tensors[name].double().abs().sum() for name in facts.owned(site)]
        return torch.stack(sums).sum(0, keepdim=True)
    return site.pool(facts.tensors, lambda _, w: w.abs(), {"out", "in", "scale", "shift"})


def negative(site: Site, facts: Facts) -> Tensor:
    return -norm(site, facts)


def overflowing(site: Site, facts: Facts) -> Tensor:
    if site.module is not None:
        return norm(site, facts)
    return site.pool(facts.tensors, lambda _, w: (w * w).sqrt(), {"out", "in", "scale", "shift"})


def scalar(site: Site, facts: Facts) -> Tensor:
    return norm(site, facts).sum()


def writing(site: Site, facts: Facts) -> Tensor:
    for part in site.slices:
        if part.role == "in":
            facts.tensors[part.tensor].neg_()
    return norm(site, facts)


def forgiving(site: Site, facts: Facts) -> Tensor:
    return norm(site, facts).nan_to_num(0.0, 0.0)


def drawing(site: Site, facts: Facts) -> Tensor:
    return torch.rand(site.n)


def changing(site: Site, facts: Facts) -> Tensor:
    changing.calls = getattr(changing, "calls", 0) + 1  # type: ignore[attr-defined]
    return norm(site, facts) + changing.calls  # type: ignore[attr-defined]


def test_a_sound_criterion_passes() -> None:
    check_criterion(norm)
    check_criterion(negative, monotone=False)


BROKEN = [
    (negative, "goes from"),
    (overflowing, r"float16.*inf"),
    (scalar, "must return a tensor of shape"),
    (writing, r"changes .*\.weight"),
    (forgiving, "whose weights are NaN"),
    (drawing, "global random state"),
    (changing, "otherwise the second time"),
]


@pytest.mark.parametrize(("function", "message"), BROKEN)
def test_a_broken_criterion_is_caught(function: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_criterion(function)


def test_a_criterion_that_needs_gradients_gets_them() -> None:
    def first(site: Site, facts: Facts) -> Tensor:
        assert facts.gradients is not None
        return norm(site, facts)

    first.needs = "gradients"  # type: ignore[attr-defined]
    check_criterion(first)


# --- units and allocators -------------------------------------------------------------------------


@dataclass
class Bad:
    """A unit that spoils the sites of another one."""

    spoil: Callable[[list[Site], Graph, nn.Module], list[Site]]
    outside: bool = False

    def sites(self, graph: Graph, scope: Scope, model: nn.Module) -> list[Site]:
        found = Channel().sites(graph, Scope() if self.outside else scope, model)
        return self.spoil(found, graph, model) if found else []


def one(**change: Any) -> Callable[[list[Site], Graph, nn.Module], list[Site]]:
    return lambda found, *_: [replace(site, **change) for site in found[:1]]


def ghost(found: list[Site], *_: Any) -> list[Site]:
    return [Site("x", "channel", 4, (Slice("ghost.weight", 0, Leaf("x", 4), "out"),))]


def elsewhere(found: list[Site], graph: Graph, model: nn.Module) -> list[Site]:
    name, tensor = next(iter(model.named_parameters()))
    layout = Fixed(tensor.shape[0])
    return [Site("x", "channel", 4, (Slice(name, 0, layout, "out"),))]


SPOILT = [
    (Bad(lambda found, *_: found * 2), "names several sites alike"),
    (Bad(lambda found, *_: found, outside=True), "out of scope"),
    (Bad(one(slices=())), "holds nothing"),
    (Bad(one(floor=-1)), "has"),
    (Bad(ghost), r"the model has no ghost\.weight"),
    (Bad(elsewhere), "has nothing of it"),
]


@pytest.mark.parametrize(("unit", "message"), SPOILT)
def test_a_broken_unit_is_caught(unit: Bad, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_unit(unit)


def test_broken_allocators_are_caught() -> None:
    with pytest.raises(AssertionError, match="a key a step"):
        check_allocator(lambda ladders: [np.zeros(99) for _ in ladders])
    with pytest.raises(AssertionError, match="not a number"):
        check_allocator(lambda ladders: [np.full(len(k.levels) - 1, np.nan) for k in ladders])
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="other keys the second time"):
        check_allocator(lambda ladders: [rng.random(len(k.levels) - 1) for k in ladders])


def test_registered_criteria_are_checked_by_name_or_as_they_are() -> None:
    made = criterion("test_testing_norm")(norm)
    check_criterion(made)
    check_criterion("test_testing_norm")
