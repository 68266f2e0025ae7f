"""Which kernel each layer gets: all that there are, timed on this machine, and torch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from secateur.core.errors import InputError, SecateurError
from secateur.engine.arena import Arena
from secateur.engine.graph import Graph, Node
from secateur.engine.kernels import (
    ANY,
    block_of,
    build,
    depthwise_names,
    is_depthwise,
    is_direct,
    is_flat,
    names,
    planes_of,
)
from secateur.engine.layer import Dense, Layer
from secateur.engine.layout import Form, Layout, lay_out, tokens
from secateur.engine.pair import NEAR
from secateur.engine.program import Parts
from secateur.engine.recurrence import Recurrence, Steps
from secateur.engine.steps import Chosen, PlanesStep
from secateur.measure.latency_cache import TimeCache
from secateur.runtime.kernels import llvm
from secateur.runtime.planes import Planes

TORCH = "torch"
SEQUENCE = "llvm-recurrent"
_LEAST, _MOST = 0.004, 0.15  # seconds that a candidate is timed
_EVICT = 1 << 20  # floats that are read in between: what is timed finds a used cache
_COPIES = 1.1  # what torch's operation takes in a network for each second that it takes alone
_NEAR = 5 * NEAR  # bytes of planes that one kernel may make before a depthwise one reads them
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Decision:
    """One layer's kernel. ms: of the kernel; dense_ms: of torch's dense operation.

    why: in words, where no kernel was tried or none won.
    """

    kernel: str
    ms: float
    dense_ms: float
    why: str = ""


class Run(NamedTuple):
    """A call to be timed, and the input that it reads."""

    call: Callable[[], object]
    x: torch.Tensor


def decide(graph: Graph, shapes: Shapes, known: TimeCache) -> dict[str, Decision]:
    """Time every layer's kernels, on memory as in the network, and take the fastest.

    Layers that are the same but for their weights' values are timed once. What `known` holds is not
    timed again.
    """
    layout = first_layout(graph, shapes)
    found: dict[str, Decision] = {}
    try:
        for node in graph.nodes:
            if node.op == "layer":
                found[node.name] = _decide(graph, node, layout, shapes, known)
            elif node.op == "recurrence":
                found[node.name] = _decide_recurrence(graph, node, shapes, known)
    finally:
        known.save()  # once: it reads and writes the whole file
    return found


def _decide_recurrence(graph: Graph, node: Node, shapes: Shapes, known: TimeCache) -> Decision:
    """Recurrent layers run with kernels of their own, or as torch runs them."""
    layer: Recurrence = graph.layers[node.name]
    x, *states = (torch.randn(tuple(shapes[name])) for name in node.refs)
    given = states if layer.cell == "lstm" else states[0]
    key = f"{layer.kind} {layer.weights[0].shape} {tuple(x.shape)} {layer.density:.2f}"
    times: dict[str, float] = {}
    for name in (TORCH, SEQUENCE) if llvm.available() else (TORCH,):
        seconds = known.get(f"{key} {name}")
        if seconds is None:
            run = Steps(layer, sparse=name == SEQUENCE)
            seconds = known[f"{key} {name}"] = _seconds(Run(partial(run, x, given), x))
        times[name] = 1000 * seconds
    best = min(times, key=lambda name: times[name])
    return Decision(best, times[best], times[TORCH])


def _decide(graph: Graph, node: Node, layout: Layout, shapes: Shapes, known: TimeCache) -> Decision:
    layer, shape = graph.layers[node.name], shapes[node.refs[0]]
    inside, out = forms(graph, node, layout, shapes)
    key, images = key_of(graph, node, layout, shapes), _images(out, shape)

    def timed(kernel: str, make: Callable[[], Run]) -> float:
        seconds = known.get(f"{key} {kernel}")
        if seconds is None:
            seconds = known[f"{key} {kernel}"] = _seconds(make())
        return 1000 * seconds

    dense_ms = timed(TORCH, lambda: _dense(layer, shape, shapes[node.name]))
    planes = planes_of(layer, inside, out)
    candidates = kernels_of(graph, node, layout, shapes)
    if not candidates:
        full = f"{layer.weight.density:.0%} of its weights are there"
        return Decision(TORCH, dense_ms, dense_ms, full if planes.nnz else "")
    times: dict[str, float] = {}
    for name in candidates:
        try:
            times[name] = timed(name, lambda n=name: _alone(n, layer, planes, inside, out, images))
        except SecateurError:
            continue
    best = min(times, key=lambda n: times[n], default=None)
    # torch's operation reads and writes tensors of its own, copied from planes and to them
    if best is None or times[best] >= _COPIES * dense_ms:
        why = "" if best is None else f"{best.split()[0]} takes {times[best]:.3g} ms"
        return Decision(TORCH, dense_ms, dense_ms, why)
    return Decision(best, times[best], dense_ms)


def kernels_of(graph: Graph, node: Node, layout: Layout, shapes: Shapes) -> list[str]:
    """Kernels that are worth timing for a layer.

    Those in front of depthwise convolutions make few planes together, so that they can take turns.
    """
    layer, (inside, out) = graph.layers[node.name], forms(graph, node, layout, shapes)
    found = depthwise_names(layer, inside, out)
    positions = out.positions * _images(out, shapes[node.refs[0]])
    found = found or names(layer, planes_of(layer, inside, out), positions)
    readers = [other for other in graph.nodes if node.name in other.refs]
    if len(readers) == 1 and is_depthwise(graph.layers.get(readers[0].name)):
        few = [name for name in found if 4 * out.pitch * block_of(name) <= _NEAR]
        return few or found
    return found


def first_layout(graph: Graph, shapes: Shapes) -> Layout:
    """The forms of everything while layers are timed, before it is known which have kernels."""
    direct = {name for name, layer in graph.layers.items() if is_depthwise(layer)}
    return lay_out(graph, shapes, graph.layers, direct=direct)


def assemble(graph: Graph, shapes: Shapes, decisions: Mapping[str, Decision]) -> Parts:
    """Kernels and forms for one shape of inputs, by decisions that were taken before."""
    chosen = {
        name: decision.kernel
        for name, decision in decisions.items()
        if decision.kernel not in (TORCH, SEQUENCE)
    }
    plain = {name for name, kernel in chosen.items() if is_flat(kernel)}
    by_name = {node.name: node for node in graph.nodes}
    while True:
        direct = {name for name, kernel in chosen.items() if is_direct(kernel)}
        layout = lay_out(graph, shapes, chosen, plain, direct)
        places = {name: forms(graph, by_name[name], layout, shapes) for name in direct}
        lost = [n for n, place in places.items() if not depthwise_names(graph.layers[n], *place)]
        if not lost:
            break
        chosen |= dict.fromkeys(lost, ANY)  # images of these sizes are too small
    kernels = {}
    for name, kernel in chosen.items():
        layer = graph.layers[name]
        _check(by_name[name], layer, shapes)
        where = forms(graph, by_name[name], layout, shapes)
        planes = planes_of(layer, *where)
        kernels[name] = Chosen(build(kernel, layer, planes, where), np.diff(planes.indptr))
    sequences = {
        name: Steps(graph.layers[name], sparse=True)
        for name, decision in decisions.items()
        if decision.kernel == SEQUENCE
    }
    return Parts(graph, layout, kernels, {}, sequences)


def _check(node: Node, layer: Layer, shapes: Shapes) -> None:
    """Kernels read what they are told to: torch's broadcasting and missing batches are refused."""
    source, *others = (shapes[name] for name in node.refs)
    batched = not layer.dims or len(source) == layer.dims + 2
    alike = [tuple(shape) for shape in others] == [tuple(shapes[node.name])] * layer.residual
    if not batched or not alike:
        raise InputError(
            f"layer {layer.label!a} has no kernel for inputs of shapes "
            f"{[list(shapes[name]) for name in node.refs]}",
            hint="call the network with inputs as those that it was compiled for",
        )


def forms(graph: Graph, node: Node, layout: Layout, shapes: Shapes) -> tuple[Form, Form]:
    """What a layer reads (the phases, for a strided convolution) and writes."""
    out, source = layout.values[node.name], node.refs[0]
    if graph.layers[node.name].dims:
        return layout.split.get(node.name) or layout.values[source], out
    return tokens(shapes[source]) if out.pitch else out, out


def _images(out: Form, shape: Sequence[int]) -> int:
    return shape[0] if out.image else 1


def key_of(graph: Graph, node: Node, layout: Layout, shapes: Shapes) -> str:
    """What a layer's times depend on: everything but values and the pattern itself."""
    layer, (inside, out) = graph.layers[node.name], forms(graph, node, layout, shapes)
    images = _images(out, shapes[node.refs[0]])
    weight = "x".join(str(n) for n in layer.weight.shape)
    window = "".join(str(p) for p in (*layer.stride, *layer.padding, *layer.dilation))
    lies = f"{inside.pitch} {out.pitch} {out.row} {out.size[0]}x{out.size[1]} {images}"
    density = round(40 * layer.weight.density) / 40
    joined = f"{layer.activation}{'+' if layer.residual else ''}"
    return f"cold layer {weight} {window} {layer.groups} {joined} {lies} {density:.3f}"


def _alone(name: str, layer: Layer, planes: Planes, inside: Form, out: Form, images: int) -> Run:
    """A call of one kernel on memory like a program's, the residual in the output's place."""
    kernel = build(name, layer, planes, (inside, out))
    high = max(planes.reach[1], 0)
    columns = -(-(high + inside.positions) // inside.pitch)
    columns = layer.groups if is_direct(name) else columns
    steps = (columns * inside.pitch, layer.out * out.pitch, layer.out * out.pitch * layer.residual)
    room = max(0, -planes.reach[0]) + inside.pitch + 64
    arena = Arena()
    x, y = (arena.take(str(n), images * n + 2 * room, None).tensor for n in steps[:2])
    first, second = x.normal_().data_ptr() + 4 * room, y.normal_().data_ptr() + 4 * room
    starts = (first, second, second if layer.residual else 0)
    chosen = Chosen(kernel, np.diff(planes.indptr))
    step = PlanesStep(chosen, layer.out, out.positions, images, starts, steps, (x, y))
    return Run(lambda: step([]), x)


def _dense(layer: Layer, shape: Sequence[int], out: Sequence[int]) -> Run:
    """A call of torch's operation, with all that was fused."""
    dense, x = Dense(layer), torch.randn(tuple(shape))
    residual = torch.randn(tuple(out)) if layer.residual else None
    return Run(lambda: dense(x, residual), x)


def _seconds(run: Run) -> float:
    """Seconds of a call: the least of several, each after other memory and its input were read.

    So it finds weights, code and output where they are when the rest of a network has run.
    """
    other, best = torch.zeros(_EVICT), float("inf")
    start = perf_counter()
    runs = 0
    with torch.no_grad():
        run.call()
        while runs < 3 or (best * runs < _LEAST and runs < 20):
            other.sum()
            run.x.sum()
            before = perf_counter()
            run.call()
            best = min(best, perf_counter() - before)
            runs += 1
            if perf_counter() - start > _MOST:
                break
    return best
