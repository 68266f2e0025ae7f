"""Compiling on a GPU: layers whose zeros its sparse tensor cores can use, if the clock agrees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.apply.verify import compare as same_outputs
from secateur.apply.verify import run_detached
from secateur.core.batches import Call, hooked, tensors_in
from secateur.core.errors import VerificationError
from secateur.engine.fast import FastParts
from secateur.engine.report import Report, Row, faster
from secateur.engine.semi_structured import SemiStructured, kernels, refusal
from secateur.measure.clock import compare
from secateur.measure.latency_cache import TimeCache, conditions
from secateur.measure.latency_table import seconds

LAYERS = (nn.Linear, nn.Conv2d)
TORCH = "torch"


def compile_gpu(model: nn.Module, call: Call, folder: Path | None) -> FastParts:
    """A copy of a model on a GPU whose layers run 2:4 where that is faster, else as they were.

    Layers are timed on the sizes of the call, the whole network at the end; where nothing is
    gained, calls go to the model itself.

    Raises:
        VerificationError: The outputs differ by more than their type explains.
    """
    device = next(tensors_in((call.args, dict(call.kwargs)))).device
    known = TimeCache(folder, conditions(device, torch.get_num_threads()))
    with torch.no_grad():
        expected = run_detached(model, call)
        twin, rows = copy.deepcopy(model).requires_grad_(False).eval(), list[Row]()
        saved = 0
        for name, like in _inputs(model, call).items():
            layer = model.get_submodule(name)
            row, made = _choose(name, layer, torch.randn_like(like, device=device), known)
            rows.append(row)
            if made is not None:
                twin.set_submodule(name, made)
                saved += _bytes(layer) - made.bytes
        known.save()
        found = same_outputs(expected, run_detached(twin, call))
        if not found.ok:
            raise VerificationError(
                f"the compiled network gives other outputs: {found.note or found.difference}",
                hint="please report it; the model is as it was",
            )
        timed = compare(
            {"before": partial(call.run, model), "after": partial(call.run, twin)},
            min_time=0.1, max_time=3.0, models=[model, twin], device=device,
        )  # fmt: skip
    before, after = timed["before"], timed["after"]
    fast = any(row.kernel != TORCH for row in rows) and faster(before, after)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    report = Report(
        type(model).__name__, tuple(rows), before, after, fast, found.difference, size,
        size - saved if fast else size,
    )  # fmt: skip
    return FastParts(twin if fast else model, report)


def _inputs(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """What the first input of every layer that is called is like, by name, without its values.

    Layers of subclasses stay: they may do something else with their weight.
    """
    found: dict[str, Tensor] = {}

    def seen(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor):
                found.setdefault(name, args[0].detach().to("meta"))

        return hook

    hooks = (
        (module.register_forward_pre_hook, seen(name))
        for name, module in model.named_modules()
        if type(module) in LAYERS
    )
    with hooked(hooks):
        run_detached(model, call)
    return found


def _choose(
    name: str, layer: nn.Module, x: Tensor, known: TimeCache
) -> tuple[Row, SemiStructured | None]:
    """What a layer runs on: the fastest of torch's operation and its 2:4 kernels."""
    weight: Any = layer.weight
    density = float(weight.count_nonzero()) / max(1, weight.numel())
    window = "x".join(map(str, weight.shape[2:]))
    kind = f"conv {window}" if window else "linear"
    times = {TORCH: _milliseconds(layer, layer, TORCH, x, known)}
    dense_ms, why = times[TORCH], refusal(layer)
    if why:
        return Row(name, kind, density, TORCH, dense_ms, dense_ms, why), None
    made: dict[str, SemiStructured] = {}
    wanted = layer(x)
    for kernel, packed in kernels(weight.detach().flatten(1).contiguous()):
        if isinstance(packed, str):
            why = packed
            continue
        module = SemiStructured.of(layer, kernel, packed)
        try:
            right = same_outputs(wanted, module(x)).ok
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0][:120]
            continue
        if right:
            made[kernel] = module
            times[kernel] = _milliseconds(module, layer, kernel, x, known)
    best = min(times, key=lambda kernel: times[kernel])
    if best == TORCH:
        others = {kernel: ms for kernel, ms in times.items() if kernel != TORCH}
        if others:
            least = min(others, key=lambda kernel: others[kernel])
            why = f"{least} takes {others[least]:.3g} ms"
        return Row(name, kind, density, TORCH, dense_ms, dense_ms, why), None
    return Row(name, kind, density, best, dense_ms, times[best]), made[best]


def _milliseconds(
    module: nn.Module, layer: nn.Module, kernel: str, x: Tensor, known: TimeCache
) -> float:
    """Milliseconds of a layer on an input; from the cache where it was timed before."""
    weight: Any = layer.weight
    shape, bias = "x".join(map(str, weight.shape)), getattr(layer, "bias", None) is not None
    window = "" if isinstance(layer, nn.Linear) else f"{layer.stride}{layer.padding}{layer.groups}"
    key = f"gpu {kernel} {shape} {window} {bias} {weight.dtype} {tuple(x.shape)} {x.stride()}"
    found = known.get(key)
    if found is None:
        found = known[key] = seconds(partial(module, x), device=x.device)
    return 1000 * found


def _bytes(layer: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in layer.parameters())


__all__ = ["compile_gpu"]
