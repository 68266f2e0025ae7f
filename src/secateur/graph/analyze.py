"""From a model and an example to its `Graph`: run once, solve, name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, as_call, tensors_in, untouched
from secateur.core.errors import UnsupportedModel
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.core.plan import Attribute, Reason
from secateur.core.site import Role, Tie
from secateur.core.tensors import caches
from secateur.graph import graph as records
from secateur.graph.attributes import AttributeTracer
from secateur.graph.axes import Axis, split, unify
from secateur.graph.blocks import residual_blocks
from secateur.graph.builtin import size_facts
from secateur.graph.naming import describe, name_leaves
from secateur.graph.op import GEOMETRY
from secateur.graph.rules.spatial import register_torchvision
from secateur.graph.sizes import atoms
from secateur.graph.states import taken_back
from secateur.graph.ties import Solution, solve
from secateur.graph.trace import Trace, recording


def analyze(
    model: nn.Module, example: Any, *, also_frozen: Mapping[str, Reason] | None = None
) -> records.Graph:
    """Run the model once on the example and find out what can be removed from it.

    also_frozen: leaf names that must stay, with reasons (learned from an earlier failed cut). Takes
    one forward pass; memory for the activations of that pass as PyTorch frees them, plus a few
    hundred bytes an operation.

    Raises:
        UnsupportedModel: The model cannot run on the example, or is not plain PyTorch.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = analyze(net, torch.zeros(1, 3))
        >>> [(axis.name, axis.n) for axis in graph.axes.values() if axis.frozen is None]
        [('0', 8)]
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModel(
            "the model is a TorchScript module, whose sizes are compiled in",
            hint="give the nn.Module that it was made from",
        )
    if hasattr(model, "_orig_mod"):
        raise UnsupportedModel(
            "the model is wrapped by torch.compile",
            hint="give model._orig_mod, and compile the result",
        )
    call = as_call(model, example)
    kept = caches(model)
    try:
        trace, slots = _record(model, call, kept)
    except UnsupportedModel:
        if not kept:
            raise
        trace, slots = _record(model, call, [])  # they are not caches: the model needs them
        kept = []
    _unify_recurrent(trace, model)
    for axis, reason in trace.pending.items():
        axis.freeze(reason)
    _set_unused_aside(trace, model)
    _state_facts(trace, slots, model)
    names = name_leaves(trace, _named_leaves(trace))
    for name, reason in (also_frozen or {}).items():
        for leaf, given in names.items():
            if given == name:
                leaf.freeze(reason)
    free = {leaf for leaf in names if leaf.frozen is None}
    solution = solve(trace.equations.values(), slots.slots, free)
    graph = _Builder(trace, slots, names, solution).build(model)
    return replace(graph, stale_caches=bool(kept))


def _record(
    model: nn.Module, call: Call, forget: list[dict[Any, Any]]
) -> tuple[Trace, AttributeTracer]:
    """Run the model under the recorder, without what earlier runs have left in caches."""
    slots = AttributeTracer()
    with untouched(model):
        for cache in forget:
            cache.clear()
        trace = Trace(model)
        with slots.traced(model):
            _run(trace, model, call)
    return trace, slots


def _run(trace: Trace, model: nn.Module, call: Call) -> None:
    register_torchvision()
    given = Reason("an input of the model", "input")
    for tensor in tensors_in((call.args, dict(call.kwargs))):
        for axis in trace.axes(tensor):
            axis.frozen, axis.size = given, axis.size
    try:
        with recording(trace):
            out = call.run(model)
            results = list(tensors_in(out))
        kept = taken_back(model, call, out, trace.final_states)
        for position, tensor in enumerate(results):
            if not trace.known(tensor):
                continue
            if id(tensor) in kept:
                trace.states[position] = trace.axes(tensor)
                continue
            for axis in trace.axes(tensor):
                axis.freeze(Reason("an output of the model", "output"))
    except Exception as error:
        raise UnsupportedModel(
            f"the model raised on the example: {type(error).__name__}: {error}",
            hint="check that model(example) runs in evaluation mode",
        ) from error
    if not results:
        raise UnsupportedModel(
            f"the model returns a {type(out).__name__} without a tensor: no cut could be verified",
            hint="wrap the model so that it returns its result as a tensor",
        )


def _unify_recurrent(trace: Trace, model: nn.Module) -> None:
    """The columns of a recurrent weight are its own hidden units, however short the example."""
    for module in model.modules():
        if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            continue
        for key, weight in module.named_parameters(recurse=False):
            if not key.startswith("weight_hh"):
                continue
            rows, columns = trace.axes(weight)
            projection = getattr(module, key.replace("_hh_", "_hr_"), None) if "_l" in key else None
            if isinstance(projection, Tensor):
                small, hidden = trace.axes(projection)
                unify(columns, small)
                order = ("lt", ("count", small), ("count", hidden))
                trace.equate(order, 1, "proj_size is smaller than hidden_size")
                continue
            gates = split(rows, [columns.size] * (rows.size // columns.size))
            for gate in gates or [rows]:
                unify(columns, gate)


def _state_facts(trace: Trace, slots: AttributeTracer, model: nn.Module) -> None:
    """Where the code computes with `linear.out_features` and the like: it is a tensor's size."""
    used = {
        key
        for equation in trace.equations.values()
        for side in (equation.left, equation.right)
        for kind, key in atoms(side)
        if kind == "attr"
    }
    keys = {(slots.slots[key].module, slots.slots[key].path): key for key in used}
    for prefix, module in model.named_modules():
        for attribute, tensor, dim in size_facts(module):
            key = keys.get((prefix, attribute))
            if key is not None and trace.known(tensor):
                trace.equate(("attr", key), ("count", trace.axes(tensor)[dim]), "a layer's size")


def _set_unused_aside(trace: Trace, model: nn.Module) -> None:
    """Freeze what the run did not touch of parameters and buffers; forget other tensors."""
    registered = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    for name in [name for name in trace.tensors if name not in trace.used]:
        if name in registered:
            for axis in trace.axes(trace.tensors[name]):
                axis.freeze(Reason("not used when the model ran on the example"))
        else:
            del trace.tensors[name]
    taken = {leaf for axis, _, _ in trace.sliced for leaf in axis.leaves()}
    for _, rest, why in trace.sliced:  # a longer input may use more of it
        for leaf in {leaf for axis in rest for leaf in axis.leaves()} - taken:
            leaf.freeze(why)


def _named_leaves(trace: Trace) -> set[Axis]:
    """The leaves that some parameter or buffer has, but for kernels and other geometry."""
    return {
        leaf
        for tensor in trace.tensors.values()
        for axis in trace.axes(tensor)
        for leaf in axis.leaves()
        if leaf.size > 1 and (leaf.frozen is None or leaf.frozen.op != GEOMETRY)
    }


class _Builder:
    """Turns the recorded axes into immutable layouts and records."""

    def __init__(
        self, trace: Trace, slots: AttributeTracer, names: Mapping[Axis, str], solution: Solution
    ) -> None:
        self.trace = trace
        self.slots = slots
        self.names = names
        self.solution = solution
        self.leaves = {leaf for members, _ in solution.ties for leaf in members}
        self._layouts: dict[Axis, Layout] = {}

    def layout(self, axis: Axis) -> Layout:
        axis = axis.find()
        known = self._layouts.get(axis)
        if known is None:
            known = self._layouts[axis] = self._make(axis)
        return known

    def _make(self, axis: Axis) -> Layout:
        if not axis.kind:
            return Leaf(self.names[axis], axis.size) if axis in self.leaves else Fixed(axis.size)
        merged: list[Layout] = []
        for part in axis.parts:
            layout = self.layout(part)
            last = merged[-1] if merged else None
            if isinstance(layout, Fixed) and isinstance(last, Fixed):
                size = last.n * layout.n if axis.kind == "product" else last.n + layout.n
                merged[-1] = Fixed(size)
            else:
                merged.append(layout)
        if len(merged) == 1:
            return merged[0]
        return Product(tuple(merged)) if axis.kind == "product" else Concat(tuple(merged))

    def build(self, model: nn.Module) -> records.Graph:
        trace = self.trace
        layouts = {
            name: tuple(self.layout(axis) for axis in trace.axes(tensor))
            for name, tensor in trace.tensors.items()
        }
        roles = {
            (name, d): self.role(name, d)
            for name, dims in layouts.items()
            for d in range(len(dims))
        }
        described = describe(trace, self.names, roles)
        attributes = [
            Attribute(slot.module, slot.path, slot.value, layout)
            for key, axis in self.solution.drivers.items()
            if (layout := self.layout(self.solution.stand_ins.get(axis.find(), axis))).names
            for slot in [self.slots.slots[key]]
        ]
        return records.Graph(
            layouts=layouts,
            roles=roles,
            axes={axis.name: axis for axis in described},
            ties=tuple(
                Tie({self.names[leaf]: ratio for leaf, ratio in members.items()}, tuple(levels))
                for members, levels in self.solution.ties
            ),
            attributes=tuple(attributes),
            terms=tuple(
                records.Term(module, op, factor, tuple(self.layout(axis) for axis in axes))
                for (module, op, _), (factor, axes) in trace.terms.items()
            ),
            blocks=tuple(residual_blocks(model, trace.flow)),
            replay=self.replay(),
            states={
                position: tuple(self.layout(axis) for axis in axes)
                for position, axes in trace.states.items()
            },
            unknown=dict(trace.unknown),
            notes=trace.notes,
        )

    def role(self, name: str, dim: int) -> Role:
        tensor = self.trace.tensors[name]
        special = self.trace.norm_roles.get(name)
        if special is not None:
            return special  # type: ignore[return-value]
        if (name, dim) in self.trace.contracted:
            return "in"
        return "out" if isinstance(tensor, nn.Parameter) else "buffer"

    def replay(self) -> records.Replay:
        restrictions = {}
        for index, entries in self.trace.restrictions.items():
            kept = tuple(
                (how, name, dim, layout)
                for how, name, dim, axis in entries
                if (layout := self.layout(axis)).names
            )
            if kept:
                restrictions[index] = kept
        return records.Replay(tuple(self.trace.ops), restrictions)
