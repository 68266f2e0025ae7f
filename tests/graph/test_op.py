"""What a rule sees of an operation, and the registry of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import Op, analyze, rule
from secateur.graph.op import RULES, aten, normal_dim, normal_dims
from secateur.graph.trace import Trace


def op(function: Any, *args: Any, **kwargs: Any) -> Op:
    model = nn.ParameterList([value for value in args if isinstance(value, nn.Parameter)])
    trace = Trace(model)
    with torch.no_grad():
        return Op(trace, function, args, kwargs, function(*args, **kwargs), 7)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def test_arguments_have_their_names_and_defaults() -> None:
    w = weight(3, 4)
    found = op(torch.ops.aten.sum.dim_IntList, w, [1])
    assert list(found.args) == ["self", "dim"] and found.args["self"] is w
    assert found.get("keepdim") is False and found.get("dim") == [1]
    assert found.get("nothing") is None and found.get("nothing", 5) == 5
    assert op(torch.ops.aten.add.Tensor, w, w, alpha=2).get("alpha") == 2


def test_inputs_and_outputs_are_the_tensors() -> None:
    a, b = weight(3, 4), weight(3, 2)
    assert [
        t is s
        for t, s in zip(op(torch.ops.aten.cat.default, [a, b], 1).inputs, [a, b], strict=True)
    ]
    assert len(op(torch.ops.aten.split.Tensor, a, 2, 1).outputs) == 2
    assert len(op(torch.ops.aten.max.dim, a, 1).outputs) == 2


def test_giving_axes_checks_sizes() -> None:
    w = weight(3, 4)
    found = op(torch.ops.aten.clone.default, w)
    found.give(found.out, found.axes(w))
    assert found.axes(found.out) == found.axes(w)
    with pytest.raises(ValueError, match="do not fit"):
        found.give(found.out, found.axes(w)[::-1])


def test_freezing_names_the_operation_and_the_line() -> None:
    found = op(torch.ops.aten.clone.default, weight(3, 4))
    axis = found.axes(found.args["self"])[0]
    found.freeze(axis, "because")
    assert axis.frozen is not None
    assert (axis.frozen.text, axis.frozen.op) == ("because", "aten.clone.default")
    assert "graph/test_op.py:" in axis.frozen.where
    found.freeze(axis, "later")
    assert axis.frozen.text == "because"


def test_new_axes() -> None:
    found = op(torch.ops.aten.clone.default, weight(3, 4))
    assert not found.fixed(3, "still").free and not found.spatial(3).free
    assert found.fixed(1, "").frozen is None
    fresh = found.fresh(3, "an expanded size")
    assert fresh.free and fresh in found.trace.pending
    found.trace.inside = True
    assert found.fresh(3, "sized by the code") not in found.trace.pending
    assert found.fresh(1, "adapts") not in found.trace.pending


def test_contracting_restricts_and_remembers_the_consumer() -> None:
    a, b = weight(3, 4), weight(4, 5)
    found = op(torch.ops.aten.mm.default, a, b)
    found.contract(a, 1, b, 0)
    assert found.trace.restrictions == {7: [("zero", "self", 1, found.axes(a)[1])]}
    assert found.trace.contracted == {("0", 1), ("1", 0)}
    found.trace.restrictions.clear()
    found.axes(a)[1].freeze(found.reason("still"))
    found.contract(a, 1, b, 0)
    assert found.trace.restrictions == {}


def test_selecting_marks_statistical() -> None:
    a = weight(3, 4)
    found = op(torch.ops.aten.mean.dim, a, [1])
    found.select("self", [1])
    assert found.axes(a)[1].marks == {"statistical"} and found.axes(a)[0].marks == frozenset()
    assert found.trace.restrictions == {7: [("select", "self", 1, found.axes(a)[1])]}


def test_dimensions_are_counted_from_the_front() -> None:
    assert [normal_dim(d, 3) for d in (0, 2, -1, -3)] == [0, 2, 2, 0]
    assert normal_dim(-1, 0) == 0
    assert normal_dims(None, 2) == normal_dims([], 2) == [0, 1]
    assert normal_dims([0, -1], 3) == [0, 2] and normal_dims(-1, 3) == [2]


def test_operations_of_other_versions_are_none() -> None:
    assert aten.there_is_no_such_operation is None
    assert aten.mm is torch.ops.aten.mm

    @rule(None)
    def nothing(op: Op) -> None:
        raise AssertionError

    assert None not in RULES


def test_a_rule_is_for_all_overloads(monkeypatch: pytest.MonkeyPatch) -> None:
    packet = torch.ops.aten.deg2rad
    monkeypatch.delitem(RULES, packet, raising=False)

    @rule(packet.default)
    def same(op: Op) -> None:
        op.give(op.out, op.axes(op.args["self"]))

    assert RULES[packet] is same
    del RULES[packet]


@pytest.fixture
def custom() -> Any:
    """An operation of a library of its own: the sum of two halves."""
    library = torch.library.Library("secateur_rules", "FRAGMENT")
    library.define("fold(Tensor x) -> Tensor")
    library.impl("fold", lambda x: x[:, ::2] + x[:, 1::2], "CompositeExplicitAutograd")
    packet = torch.ops.secateur_rules.fold
    yield packet
    RULES.pop(packet, None)
    library._destroy()


class Net(nn.Module):
    def __init__(self, code: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.code = nn.Linear(3, 8), nn.Linear(4, 2), code

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.code(self.a(x)))


def test_a_user_can_teach_an_operation(custom: Any) -> None:
    from secateur.graph.axes import factor

    model, x = Net(custom), torch.zeros(2, 3)
    graph = analyze(model, x)
    assert "no rule for secateur_rules.fold" in str(graph.unknown["secateur_rules.fold.default"])
    assert graph.axes["a"].frozen is not None

    @rule(custom)
    def fold(op: Op) -> None:
        rows, columns = op.axes(op.args["x"])
        pair = factor(columns, [columns.size // 2, 2])
        assert pair is not None
        op.freeze(pair[1], "two neighbours are added")
        op.give(op.out, [rows, pair[0]])

    graph = analyze(model, x)
    assert graph.unknown == {} and [tie.ratios for tie in graph.ties] == [{"a.0": 1}]


def test_a_rule_that_raises_freezes_everything_it_touches(custom: Any) -> None:
    @rule(custom)
    def fold(op: Op) -> None:
        raise KeyError("dim")

    graph = analyze(Net(custom), torch.zeros(2, 3))
    assert "does not cover this use: 'dim'" in str(graph.axes["a"].frozen)
    assert graph.ties == ()


def test_a_rule_that_forgets_an_output_freezes_both_sides(custom: Any) -> None:
    @rule(custom)
    def fold(op: Op) -> None:
        return None

    graph = analyze(Net(custom), torch.zeros(2, 3))
    assert graph.layouts["b.weight"][1].to_json() == 4
    assert graph.axes["a"].frozen is not None
