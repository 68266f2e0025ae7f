"""One run, recorded: operations, modules, restrictions, work, and nothing left switched on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import sizes
from secateur.graph.sizes import TracedInt
from secateur.graph.trace import Trace, decomposed, recording

X = torch.zeros(2, 3)


def record(model: nn.Module, *args: Tensor) -> Trace:
    trace = Trace(model)
    with recording(trace):
        model(*args)
    return trace


class Net(nn.Module):
    """Calls whatever a test gives it, with its two layers."""

    def __init__(self, code: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.code = nn.Linear(3, 6), nn.Linear(6, 2), code

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


def plain(m: Any, x: Tensor) -> Tensor:
    return m.b(m.a(x).relu())


def test_operations_are_noted_with_their_modules() -> None:
    trace = record(Net(plain), X)
    assert trace.ops == [
        ("aten.t.default", "a"), ("aten.addmm.default", "a"), ("aten.relu.default", ""),
        ("aten.t.default", "b"), ("aten.addmm.default", "b"),
    ]  # fmt: skip
    assert trace.module == "" and trace.modules == []
    assert trace.unknown == {} and trace.used == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_axes_flow_through() -> None:
    model = Net(plain)
    trace = record(model, X)
    hidden = trace.axes(model.a.weight)[0].find()
    assert trace.axes(model.b.weight)[1].find() is hidden
    assert trace.axes(model.a.bias)[0].find() is hidden
    assert trace.contracted == {("a.weight", 1), ("b.weight", 1)}
    assert trace.origin(model.a.weight.t()) is None and trace.origin(model.a.weight) == "a.weight"


def test_sums_over_free_axes_are_restricted() -> None:
    model = Net(plain)
    trace = record(model, X)
    (restriction,) = trace.restrictions[4]
    assert restriction[:3] == ("zero", "mat1", 1)
    assert restriction[3].find() is trace.axes(model.a.weight)[0].find()


def test_work_is_counted_by_module() -> None:
    trace = record(Net(lambda m, x: m.b(m.a(m.a(x).sum(1, keepdim=True).expand(-1, 3)))), X)
    found = {(module, op): factor for (module, op, _), (factor, _) in trace.terms.items()}
    assert found == {("a", "aten.addmm"): 2, ("b", "aten.addmm"): 1}


def test_repeated_modules_add_up() -> None:
    trace = record(Net(lambda m, x: m.b(m.a(x)) + m.b(m.a(x))), X)
    totals: dict[str, int] = {}
    for (module, *_), (factor, _) in trace.terms.items():
        totals[module] = totals.get(module, 0) + factor
    assert totals == {"a": 2, "b": 2}


def test_tensors_from_elsewhere_are_frozen_constants() -> None:
    model = Net(lambda m, x: m.b(m.a(x) * torch.tensor([1.0] * 6)))
    trace = record(model, X)
    frozen = trace.axes(model.a.weight)[0].leaves()[0].frozen
    assert frozen is not None and "outside the traced operations" in frozen.text
    assert "test_trace.py" in frozen.where


def test_an_unknown_operation_freezes_and_is_named() -> None:
    library = torch.library.Library("secateur_test", "DEF")
    library.define("mystery(Tensor x) -> Tensor")
    library.impl("mystery", lambda x: x.clone(), "CompositeExplicitAutograd")
    model = Net(lambda m, x: m.b(torch.ops.secateur_test.mystery(m.a(x))))
    trace = record(model, X)
    assert list(trace.unknown) == ["secateur_test.mystery.default"]
    assert not trace.axes(model.a.weight)[0].free and not trace.axes(model.b.weight)[1].free
    assert trace.axes(model.b.weight)[0].free


def test_in_place_operations_keep_axes() -> None:
    model = Net(lambda m, x: m.b(m.a(x).relu_().add_(1).mul_(2)))
    trace = record(model, X)
    assert trace.axes(model.a.weight)[0].free
    assert trace.axes(model.a.weight)[0].find() is trace.axes(model.b.weight)[1].find()


def test_control_flow_on_data_is_noted() -> None:
    def branch(m: Any, x: Tensor) -> Tensor:
        return m.b(m.a(x)) if x.sum() > 1 else m.b(m.a(x).relu())

    trace = record(Net(branch), X)
    assert "control flow may depend on the data" in trace.notes[0]
    assert "test_trace.py" in trace.notes[0]
    assert record(Net(plain), X).notes == ()


def test_shapes_travel_as_traced_integers_only_where_free() -> None:
    seen: list[Any] = []

    def look(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        seen.extend([y.shape[1], y.size(1), y.size()[1], y.shape, len(y), y.numel(), y.dim()])
        return m.b(y)

    record(Net(look), X)
    assert [type(n) is TracedInt for n in seen] == [True, True, True, False, False, True, False]
    assert seen == [6, 6, 6, (2, 6), 2, 12, 2] and type(seen[3]) is torch.Size


def switches() -> tuple[Any, ...]:
    hooks = nn.modules.module
    return (
        torch._C._get_mkldnn_enabled(),
        torch._C._get_cudnn_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_pre_hooks),
        len(sizes._recorder),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    )


def test_everything_is_switched_back() -> None:
    before = switches()
    record(Net(plain), X)
    assert switches() == before
    with decomposed():
        assert not torch._C._get_mkldnn_enabled() and not torch.is_grad_enabled()
    assert switches() == before


def test_everything_is_switched_back_after_an_exception() -> None:
    def fail(m: Any, x: Tensor) -> Tensor:
        m.a(x)
        raise RuntimeError("no")

    before = switches()
    with pytest.raises(RuntimeError, match="no"):
        record(Net(fail), X)
    assert switches() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_switches_that_the_user_set_are_kept(enabled: bool) -> None:
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        torch._C._set_mkldnn_enabled(enabled)
        record(Net(plain), X)
        assert torch._C._get_mkldnn_enabled() is enabled
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch._C._set_mkldnn_enabled(True)


def test_a_submodule_that_fails_inside_a_try_does_not_confuse_names() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    def guarded(m: Any, x: Tensor) -> Tensor:
        with suppress(ValueError):
            m.fail(x)
        return m.b(m.a(x))

    model = Net(guarded)
    model.fail = Failing()
    trace = record(model, X)
    assert trace.ops[1] == ("aten.addmm.default", "a") and trace.modules == []


def test_an_axis_list_must_fit_its_tensor() -> None:
    trace = Trace(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="do not fit a tensor of shape"):
        trace.give(X, [])


def test_equations_without_anything_free_are_dropped() -> None:
    model = nn.Linear(2, 3)
    trace = Trace(model)
    axis = trace.axes(model.weight)[0]
    trace.equate(("count", axis), 3, "test")
    trace.equate(("count", axis), 3, "test")
    assert len(trace.equations) == 1
    axis.freeze(trace.reason("still", "test"))
    trace.equate(("count", axis), 4, "test")
    assert len(trace.equations) == 1
    trace.equate(3, 4, "test")
    assert len(trace.equations) == 1
