"""From a model to a network that runs on sparse kernels, where that is faster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.apply.verify import compare as same_outputs
from secateur.apply.verify import run_detached
from secateur.core.batches import Call, hooked, map_tensors, tensors_in
from secateur.core.errors import InputError, SecateurError, UnsupportedModel, VerificationError
from secateur.core.threads import using
from secateur.engine.capture import capture
from secateur.engine.decide import Decision, assemble, decide
from secateur.engine.fast import Fast, FastParts, observed
from secateur.engine.fuse import fuse
from secateur.engine.gpu import compile_gpu
from secateur.engine.graph import Graph
from secateur.engine.program import Parts, Program
from secateur.engine.report import Report, Row
from secateur.engine.report import faster as _faster
from secateur.engine.settle import settle
from secateur.measure.clock import compare
from secateur.measure.latency_cache import TimeCache, conditions

_BLOCKS = (64, 256)  # positions by which layers take turns
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU)


def compile_model(
    model: nn.Module,
    call: Call,
    folder: Path | None,
    captured: Graph | None = None,
    *,
    always: bool = False,
) -> Fast | FastParts:
    """A fast network; where the model cannot be captured as a whole, one with fast layers.

    captured: what `capture` gave for the same model with other weights. always: kernels that are
    faster layer by layer stay, for others to time the whole.

    Raises:
        InputError: The model and its example are neither all on the CPU nor all on one GPU.
        VerificationError: The outputs differ.
    """
    if _on_gpu(model, call):
        return compile_gpu(model, call, folder)
    try:
        return compile_network(model, call, folder, captured, always=always)
    except UnsupportedModel as error:
        return compile_parts(model, call, folder, error.message)


def compile_parts(model: nn.Module, call: Call, folder: Path | None, why: str) -> FastParts:
    """A copy of the model whose linear layers are compiled one by one; `why` is said."""
    calls = _calls(model, call)
    twin, rows, notes = copy.deepcopy(model), [], [f"compiled layer by layer: {why}"]
    worst, saved = 0.0, 0
    for name, given in calls.items():
        layer = model.get_submodule(name)
        try:
            fast = compile_network(layer, given, folder)
        except SecateurError as error:
            notes.append(f"{name} runs as it was: {error.message}")
            continue
        rows += [replace(row, name=name) for row in fast.report.rows]
        if fast.report.fast:
            twin.set_submodule(name, fast)
            worst = max(worst, fast.report.difference)
            saved += fast.report.dense_bytes - fast.report.bytes
    with torch.no_grad():
        timed = compare(
            {"before": partial(call.run, model), "after": partial(call.run, twin)},
            min_time=0.1, max_time=3.0, models=[model, twin],
        )  # fmt: skip
    fast = any(isinstance(part, Fast) for part in twin.modules())
    fast = fast and _faster(timed["before"], timed["after"])
    size = _dense_bytes(model)
    report = Report(
        type(model).__name__, tuple(rows), timed["before"], timed["after"], fast, worst, size,
        size - saved, tuple(notes),
    )  # fmt: skip
    return FastParts(twin if fast else model, report)


def _calls(model: nn.Module, call: Call) -> dict[str, Call]:
    """The first call of every linear layer, by the layer's name, in the order of calls."""
    found: dict[str, Call] = {}

    def seen(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            found.setdefault(name, Call(*map_tensors((args, dict(kwargs)), torch.clone)))

        return hook

    hooks = (
        (partial(module.register_forward_pre_hook, with_kwargs=True), seen(name))
        for name, module in model.named_modules()
        if isinstance(module, _LINEAR)
    )
    with hooked(hooks):
        run_detached(model, call)
    return found


def compile_network(
    model: nn.Module,
    call: Call,
    folder: Path | None,
    captured: Graph | None = None,
    *,
    always: bool = False,
) -> Fast:
    """Capture, choose by the clock, verify, and time the whole against the model as it was.

    Raises:
        UnsupportedModel: It cannot be captured as a whole.
        VerificationError: The outputs differ.
    """
    graph = fuse(capture(model, call) if captured is None else _with_weights(captured, model))
    values, _ = pytree.tree_flatten((call.args, dict(call.kwargs)))
    threads = torch.get_num_threads()
    known = TimeCache(folder, conditions(torch.device("cpu"), threads))
    with torch.no_grad():
        shapes, _ = observed(graph, values)
        decisions = decide(graph, shapes, known)
        decisions = settle(graph, shapes, decisions, values, known)
        parts = assemble(graph, shapes, decisions)
        program = _depth_first(parts, values)
        difference = _verified(program, values, list(tensors_in(run_detached(model, call))))
        timed = compare(
            {"before": partial(call.run, model), "after": partial(program, values)},
            warmup=1, repeats=7, min_time=0.0 if always else 0.1, max_time=3.0, models=[model],
        )  # fmt: skip
    before, after = timed["before"], timed["after"]
    fast = bool(parts.kernels or parts.sequences) and (always or _faster(before, after))
    report = Report(
        type(model).__name__, _rows(graph, decisions), before, after, fast, difference,
        _dense_bytes(model), bytes_of(parts), (), parts.block,
    )  # fmt: skip
    if not fast:
        bare = Graph((), {}, (), (), graph.signature)
        return Fast(bare, {}, report, model)
    network = Fast(graph, decisions, report)
    network.adopt(values, parts, program)
    return network


def _verified(program: Program, values: list[Any], expected: list[Tensor]) -> float:
    """The greatest difference of outputs, on one thread and on all, whatever memory held before.

    Raises:
        VerificationError: It is too great.
    """
    worst = 0.0
    for threads in sorted({1, torch.get_num_threads()}):
        program.arena.disturb()
        with using(threads):
            found = same_outputs(expected, program(values))
        if not found.ok:
            raise VerificationError(
                f"the compiled network gives other outputs: {found.note or found.difference}",
                hint="please report it; the model is as it was",
            )
        worst = max(worst, found.difference)
    return worst


def _depth_first(parts: Parts, values: list[Any]) -> Program:
    """A program whose layers take turns where that is faster; sets `parts.block`."""
    program = Program(parts, values)
    programs = {0: program}
    for parts.block in _BLOCKS:
        other = Program(parts, values)
        if other.turns:
            programs[parts.block] = other
    runs = {str(block): partial(other, values) for block, other in programs.items()}
    times = compare(runs, min_time=0.05, max_time=1.0, repeats=5)
    least = {block: times[str(block)].median_ms for block in programs}
    least[0] *= 0.98
    parts.block = min(programs, key=lambda block: least[block])
    return programs[parts.block]


def _with_weights(graph: Graph, model: nn.Module) -> Graph:
    """The graph with a model's own parameters and buffers."""
    state = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
    weights = {n: state.get(n.removeprefix("self."), w) for n, w in graph.weights.items()}
    return replace(graph, weights=weights)


def _on_gpu(model: nn.Module, call: Call) -> bool:
    """Whether everything is on one CUDA GPU; False where everything is on the CPU."""
    tensors = [*model.parameters(), *model.buffers(), *tensors_in((call.args, dict(call.kwargs)))]
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1 or {device.type for device in devices} - {"cpu", "cuda"}:
        raise InputError(
            f"the model and its example are on {', '.join(sorted(map(str, devices)))}",
            hint="sc.compile wants all of it on the CPU, or on one CUDA GPU",
        )
    return any(device.type == "cuda" for device in devices)


def _rows(graph: Graph, decisions: Mapping[str, Decision]) -> tuple[Row, ...]:
    rows = []
    for node in graph.nodes:
        if node.op in ("layer", "recurrence"):
            layer, chosen = graph.layers[node.name], decisions[node.name]
            rows.append(
                Row(
                    layer.label, layer.kind, layer.density, chosen.kernel,
                    chosen.dense_ms, chosen.ms, chosen.why,
                )
            )  # fmt: skip
    return tuple(rows)


def _dense_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def bytes_of(parts: Parts) -> int:
    """Weights and code: packed, compiled, and dense where torch runs them."""
    graph = parts.graph
    total = sum(t.nbytes for t in graph.weights.values() if isinstance(t, Tensor))
    for name, layer in graph.layers.items():
        chosen, sequence = parts.kernels.get(name), parts.sequences.get(name)
        total += layer.bytes
        if chosen is not None:
            total += chosen.kernel.bytes
        elif sequence is not None and sequence.fast is not None:
            total += sequence.fast.bytes
        else:
            total += 4 * layer.numel
    return total
