"""A graph for one shape of inputs: steps over fixed memory, ready to run.

A program is made by running the graph once on real inputs. What is a view of its own memory then
stays one, and costs nothing later; everything else becomes a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.engine import attention, native
from secateur.engine.arena import Arena, Buffer
from secateur.engine.chain import ChainStep, Link, chained, joined, reach
from secateur.engine.graph import Graph, Node, Ref, function, substitute
from secateur.engine.kernels import is_direct
from secateur.engine.layer import Dense, Layer
from secateur.engine.layout import SLACK, Form, Layout, flat, image_size, split_phases, tokens
from secateur.engine.native import Slot
from secateur.engine.pair import paired
from secateur.engine.recurrence import Steps
from secateur.engine.steps import (
    Chosen,
    PlanesStep,
    Step,
    anew,
    arguments,
    copied,
    into,
    split,
)


@dataclass
class Parts:
    """What programs of one shape share.

    kernels: of the layers that run on planes. dense: of the others, made when they are needed.
    sequences: of recurrent layers. block: positions that a layer of a chain goes ahead; 0: all.
    """

    graph: Graph
    layout: Layout
    kernels: Mapping[str, Chosen]
    dense: dict[str, Dense] = field(default_factory=dict)
    sequences: dict[str, Steps] = field(default_factory=dict)
    block: int = 0

    def recurrence(self, name: str) -> Steps:
        """What runs a recurrent layer."""
        if name not in self.sequences:
            self.sequences[name] = Steps(self.graph.layers[name], sparse=False)
        return self.sequences[name]

    def through_torch(self, name: str) -> Dense:
        """The layer with dense weights."""
        if name not in self.dense:
            self.dense[name] = Dense(self.graph.layers[name])
        return self.dense[name]


class Program:
    """Steps, and the memory that they work in; one run at a time.

    steps: (node, what runs) in order. turns: whether there are layers that take turns. Calls take
    the graph's inputs and give its outputs.
    """

    def __init__(self, parts: Parts, inputs: Sequence[Any]) -> None:
        self.arena = Arena()
        self.steps: list[tuple[str, Step]] = []
        self.turns = False
        self._parts, self._graph = parts, parts.graph
        self._run: list[Any] = list(inputs)
        self._values: dict[str, Any] = dict(parts.graph.weights)
        self._values |= {name: Slot(i) for i, name in enumerate(parts.graph.inputs)}
        self._constant = set(parts.graph.weights)
        self._links: dict[str, Link] = {}
        self._pitches: dict[str, int] = {}
        self._left = parts.graph.uses
        for node in self._graph.nodes:
            self._add(node)
            for name in node.refs:
                self._left[name] -= 1
                if not self._left[name]:
                    self.arena.free(name)
                    self._forget(name)
        self.steps = paired(self.steps, self._pitches)
        if parts.block:
            self.steps = chained(self.steps, self._links, parts.block)
            self.turns = any(isinstance(step, ChainStep) for _, step in self.steps)
        self.steps = joined(self.steps)
        self._outputs = [self._output(item) for item in self._graph.outputs]
        self._size = len(self._run)
        del self._run, self._values, self._constant, self._links, self._left, self._pitches

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run all steps; what is given back is the caller's own."""
        run = self.begin(inputs)
        for _, step in self.steps:
            step(run)
        given: list[Any] = [run[v.place] if isinstance(v, Slot) else v for v, _ in self._outputs]
        return [
            value.clone(memory_format=torch.contiguous_format) if ours else value
            for value, (_, ours) in zip(given, self._outputs, strict=True)
        ]

    def begin(self, inputs: Sequence[Any]) -> list[Any]:
        """What the steps of one run work on."""
        return [*inputs, *[None] * (self._size - len(inputs))]

    def _output(self, item: Any) -> tuple[Any, bool]:
        """A value to give back, and whether it must be copied, as the memory is ours."""
        if not isinstance(item, Ref):
            return item, False
        value, now = self._values[item.name], self._now(item.name)
        return value, _tensor(now) and (_tensor(value) or self.arena.find(now) is not None)

    # Building. `_run` holds what the first run gives; `_values` says where it is.

    def _add(self, node: Node) -> None:
        if node.op == "layer" and node.name in self._parts.kernels:
            self._planes(node)
        elif node.op == "layer":
            self._torch(node, self._parts.through_torch(node.name))
        elif node.op == "recurrence":
            self._torch(node, self._parts.recurrence(node.name))
        elif not (self._native(node) or self._mean(node) or self._attend(node)):
            self._torch(node, function(node.op))

    def _now(self, name: str) -> Any:
        """The value of this first run."""
        value = self._values[name]
        return self._run[value.place] if isinstance(value, Slot) else value

    def _forget(self, name: str) -> None:
        value = self._values.get(name)
        if isinstance(value, Slot) and value.place >= len(self._graph.inputs):
            self._run[value.place] = None

    def _do(self, name: str, step: Step) -> None:
        step(self._run)
        self.steps.append((name, step))

    def _slot(self, value: Any) -> Slot:
        self._run.append(value)
        return Slot(len(self._run) - 1)

    def _torch(self, node: Node, run: Callable[..., Any]) -> None:
        """Something that torch runs: once and for all, as a view, or in every run."""
        name, form = node.name, self._parts.layout.values.get(node.name)
        args, kwargs = substitute((node.args, node.kwargs), self._now)
        value = run(*args, **kwargs)
        if node.op == "aten.sym_size.int" or (
            all(n in self._constant for n in node.refs) and not _random(run)
        ):
            self._values[name] = value
            self._constant.add(name)
            return
        fixed = not any(isinstance(self._values[n], Slot) for n in node.refs)
        shared = [self.arena.share(name, tensor) for tensor in _tensors(value)]
        if fixed and any(shared):
            self._values[name] = value
            return
        given = arguments(node, self._values)
        if form is not None and _tensor(value):
            buffer = self.arena.take(name, form.floats(value.shape), form)
            target = form.view(buffer.tensor, value.shape)
            target.copy_(value)
            self._values[name] = target
            self.steps.append((name, into(run, given, target)))
            return
        slot = self._values[name] = self._slot(value)
        self.steps.append((name, anew(run, given, slot.place)))

    def _native(self, node: Node) -> bool:
        """Something for which there is code of our own, if its output is wanted in planes."""
        form = self._parts.layout.values.get(node.name)
        if form is None or node.op not in ("aten.max_pool2d.default", "aten.layer_norm.default"):
            return False
        name, pool = node.refs[0], node.op == "aten.max_pool2d.default"
        source, value = self._values[name], self._now(name)
        if pool:
            shape = (*value.shape[:2], *form.size)
        else:
            shape = tuple(value.shape)
            buffer = None if isinstance(source, Slot) else self.arena.find(source)
            if buffer is None or not _lies(source, form, buffer):
                return False
        place = self.arena.take(node.name, form.floats(shape), form)
        target = form.view(place.tensor, shape)
        if pool:
            step = native.pool(node, source, value, form, target)
        else:
            weights = [None if a is None else self._now(a.name) for a in node.args[2:4]]
            weight, bias = (*weights, None, None)[:2]
            step = native.norm(node, source, target, weight, bias, form)
        if step is None:
            self.arena.free(node.name)
            return False
        inside = self._parts.layout.values.get(name)
        if pool and inside is not None and self._graph.uses[name] == 1:
            self._pitches[node.name] = inside.pitch
        self._do(node.name, step)
        self._values[node.name] = target
        return True

    def _mean(self, node: Node) -> bool:
        """A mean over images that lie as planes."""
        if node.op not in ("aten.adaptive_avg_pool2d.default", "aten.mean.dim"):
            return False
        source = self._values[node.refs[0]]
        form = self._parts.layout.values.get(node.refs[0])
        buffer = None if isinstance(source, Slot) else self.arena.find(source)
        if form is None or not form.image or buffer is None or not _lies(source, form, buffer):
            return False
        place = self.arena.take(node.name, source.shape[0] * source.shape[1], "mean")
        target = place.tensor[: source.shape[0] * source.shape[1]].view(source.shape[:2])
        step = native.mean(node, source, form, target)
        if step is None:
            self.arena.free(node.name)
            return False
        self._do(node.name, step)
        kept = node.op != "aten.mean.dim" or (len(node.args) > 2 and node.args[2])
        self._values[node.name] = target[..., None, None] if kept else target
        return True

    def _attend(self, node: Node) -> bool:
        """Attention whose inputs are in our memory, and whose mask is always the same."""
        if node.op != attention.OP or not all(isinstance(a, Ref) for a in node.args[:3]):
            return False
        q, k, v = (self._values[a.name] for a in node.args[:3])
        if any(isinstance(t, Slot) or self.arena.find(t) is None for t in (q, k, v)):
            return False
        given = node.args[3] if len(node.args) > 3 else None
        mask = self._values[given.name] if isinstance(given, Ref) else None
        fixed = given is None or given.name in self._constant
        if not fixed or not attention.usable(node, q, k, v):
            return False
        mask = attention.mask_of(node, mask, q, k)
        if not attention.full(mask):
            return False
        batch, heads, length, size = q.shape
        shape = (batch, length, heads * size)
        form = tokens(shape)
        buffer = self.arena.take(node.name, form.floats(shape), form)
        out = form.view(buffer.tensor, shape).view(batch, length, heads, size).transpose(1, 2)
        scale = node.kwargs.get("scale") or size**-0.5
        given = (q, k, v, out, mask, scale)
        self._do(node.name, attention.native(*given) or attention.Attention(*given))
        self._values[node.name] = out
        return True

    def _planes(self, node: Node) -> None:
        """A layer on planes: its inputs brought into form, then its kernel."""
        name, layout = node.name, self._parts.layout
        layer, chosen = self._graph.layers[name], self._parts.kernels[name]
        source, *others = node.refs
        shape = self._shape(node, layer)
        form = layout.values[name]
        if name in layout.split:
            x = self._phases(name, source, layer, layout.split[name])
        else:
            shape_in = self._now(source).shape
            inside = layout.values.get(source)
            if not layer.dims:
                inside = tokens(shape_in) if form.pitch else flat(shape_in)
            x = self._formed(source, inside, f"{name}.x")
        residual = self._formed(others[0], form, f"{name}.r") if others else None
        buffer = self._in_place(node, form, x[0], residual[0]) if residual else None
        buffer = buffer or self.arena.take(name, form.floats(shape), form)
        y = form.view(buffer.tensor, shape)
        images = shape[0] if form.image else 1
        steps = (x[1], form.pitch * layer.out, form.pitch * layer.out if others else 0)
        starts = (x[0].data_ptr(), y.data_ptr(), 0 if residual is None else residual[0].data_ptr())
        held = (x[0], y, residual)
        if form.pitch and name not in layout.split:
            read = [x[0], residual[0]] if residual else [x[0]]
            self._links[name] = self._link(layer, form, chosen.kernel.step, read, y)
        if is_direct(chosen.kernel.name) and self._graph.uses[source] == 1:
            self._pitches[name] = layout.values[source].pitch
        self._do(name, PlanesStep(chosen, layer.out, form.positions, images, starts, steps, held))
        self._values[name] = y
        self.arena.free(f"{name}.x")
        self.arena.free(f"{name}.r")

    def _in_place(self, node: Node, form: Form, x: Tensor, residual: Tensor) -> Buffer | None:
        """The residual's buffer for the sum, which is written where the residual was read.

        Half of the memory is not touched then. None where the residual is needed later on.
        """
        other = node.refs[1]
        last = {f"{node.name}.r"}
        if self._left[other] == node.refs.count(other):
            last.add(other)
        buffer = self.arena.find(residual)
        if buffer is None or buffer.holds(x):  # the kernel reads its input again and again
            return None
        start = int(buffer.tensor.storage_offset()) + form.margin
        if not form.pitch or int(residual.storage_offset()) != start:
            return None
        return self.arena.take_over(node.name, residual, form, last)

    def _link(self, layer: Layer, form: Form, step: int, read: list[Tensor], y: Tensor) -> Link:
        """A layer as a link of a chain; the first tensor that it reads is its input."""
        low, high = reach(layer, form) if layer.dims else (0, 0)
        buffers = [self.arena.find(tensor) for tensor in (*read, y)]
        reads = [(b, low, high) if i == 0 else (b, 0, 0) for i, b in enumerate(buffers[:-1])]
        end = -(-form.positions // step) * step
        key = form.row, form.margin, form.pitch, form.image
        return Link(step, end, reads, buffers[-1], key)

    def _shape(self, node: Node, layer: Layer) -> tuple[int, ...]:
        inside = self._now(node.refs[0]).shape
        if not layer.dims:
            return (*inside[:-1], layer.out)
        size = (inside[2], inside[3]) if layer.dims == 2 else (1, inside[2])
        return (inside[0], layer.out, *layer.output_size(size)[2 - layer.dims :])

    def _formed(self, source: str, form: Form | None, label: str) -> tuple[Tensor, int]:
        """A value in a form, and the floats between its images: as it is, or copied."""
        assert form is not None  # every input of a convolution on planes has one
        value = self._now(source)
        step = value.shape[1] * form.pitch if form.image else 0
        buffer = None if isinstance(self._values[source], Slot) else self.arena.find(value)
        if buffer is not None and _lies(value, form, buffer):
            return value, step
        copy = self.arena.take(label, form.floats(value.shape), form)
        target = form.view(copy.tensor, value.shape)
        self._do(label, copied(self._values[source], target))
        return target, step

    def _phases(self, name: str, source: str, layer: Layer, form: Form) -> tuple[Tensor, int]:
        """The input of a strided convolution, split into phases that lie as planes."""
        value = self._now(source)
        images, channels = value.shape[:2]
        found = split_phases(layer)
        shape = (images, channels * len(found), *form.size)
        buffer = self.arena.take(f"{name}.x", form.floats(shape), (form, len(found)))
        whole = form.view(buffer.tensor, shape)
        step = native.phases(self._values[source], value, layer, form, whole)
        if step is not None:
            self._do(f"{name}.x", step)
            return whole, shape[1] * form.pitch
        a, b = layer.stride
        pairs = []
        for i, (down, across) in enumerate(found):
            rows = slice(down, None, a) if value.dim() == 4 else None
            index = (..., rows, slice(across, None, b)) if rows else (..., slice(across, None, b))
            high, wide = image_size(value.shape)
            size = (-(-(high - down) // a), -(-(wide - across) // b))
            target = whole[:, i :: len(found), : size[0], : size[1]]
            pairs.append((index, target if value.dim() == 4 else target.squeeze(2)))
        self._do(f"{name}.x", split(self._values[source], pairs))
        return whole, shape[1] * form.pitch


def _lies(value: Tensor, form: Form, buffer: Buffer) -> bool:
    """Whether a value in a buffer has a form, border and slack included."""
    if value.dtype != torch.float32 or value.dim() < 2:
        return False
    sizes = zip(value.shape, value.stride(), form.strides(value.shape), strict=True)
    same = all(size == 1 or have == want for size, have, want in sizes)
    start, place = int(buffer.tensor.storage_offset()), int(value.storage_offset())
    if form.image:
        return same and buffer.key == form and place == start + form.margin
    last = place + (value.shape[-1] - 1) * form.pitch + form.size[1] + SLACK
    return same and last <= start + buffer.floats


def _random(run: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(run, "tags", ())


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _tensors(item)]
    return [value] if isinstance(value, Tensor) else []
