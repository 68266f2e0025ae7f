"""How fast a network gets at several sparsities, beside what other engines make of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.batches import as_call
from secateur.core.cache import folder_of
from secateur.core.errors import RecipeError, UnsupportedModel
from secateur.core.measured import Latency
from secateur.core.page import Line, Page, Table, milliseconds, plain
from secateur.engine.capture import capture
from secateur.engine.compiler import compile_model
from secateur.measure.clock import compare
from secateur.ship.peers import PEERS, peers


@dataclass(frozen=True)
class Bench:
    """peers: the time of each other engine. levels: sparsity to our time. kernels: used by each.

    All were timed in turns, in one process.
    """

    name: str
    peers: dict[str, Latency]
    levels: dict[float, Latency]
    kernels: dict[float, dict[str, int]]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> tuple[str, Latency]:
        """The fastest of the other engines."""
        name = min(self.peers, key=lambda n: self.peers[n].median_ms)
        return name, self.peers[name]

    @property
    def ratios(self) -> dict[float, float]:
        """How many times as fast as the fastest other engine, by sparsity."""
        best = self.best[1].median_ms
        return {level: best / time.median_ms for level, time in self.levels.items()}

    @property
    def page(self) -> Page:
        """What is printed."""
        name, best = self.best
        rows = [(engine, "", *_cells(time, best)) for engine, time in self.peers.items()]
        for level, time in self.levels.items():
            used = ", ".join(f"{n} {kind}" for kind, n in self.kernels[level].items())
            rows.append((f"secateur, {level:.0%} zero", used, *_cells(time, best)))
        return (
            Line(f"{self.name}: {best.conditions}", title=True),
            *(Line(f"note: {note}", "warn") for note in self.notes),
            Table(("", "layers on", "ms", "spread", f"x {name}"), tuple(rows), frozenset({0, 1})),
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "best": self.best[0], "ratios": self.ratios}

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)


def bench(
    model: nn.Module,
    example: Any,
    sparsity: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    *,
    engines: Sequence[str] = tuple(PEERS),
    min_time: float = 1.0,
    cache: str | Path | bool = True,
) -> Bench:
    """Compile copies with ever more zeros, and time them in turns with other engines.

    In every matrix the smallest weights are set to zero; depthwise convolutions and those of few
    input channels stay, as they do in practice. Engines that take zeros for numbers are timed once.

    Args:
        model: On the CPU; left as it was.
        example: The inputs of one call.
        sparsity: Shares of zeros, each at least 0 and below 1.
        engines: `eager`, `channels_last`, `torch.compile`, `onnxruntime`, `openvino`; those that
            are not installed are left out, and a note says so.
        min_time: Seconds that each is timed, at least.
        cache: As for `compile`.

    Raises:
        RecipeError: A share makes no sense, or there is nothing to compare with.
    """
    if not all(0 <= share < 1 for share in sparsity) or not sparsity:
        raise RecipeError(f"sparsity={list(sparsity)}: expected shares, at least 0 and below 1")
    call = as_call(model, example)
    runs, notes = peers(model, call, engines, torch.get_num_threads())
    if not runs:
        raise RecipeError("there is nothing to compare with", hint="add the engine 'eager'")
    said, kernels, modules = list(notes), {}, []
    folder = folder_of(cache)
    try:
        captured = capture(model, call)
    except UnsupportedModel:
        captured = None
    for share in sparsity:
        network = compile_model(zeroed(model, share), call, folder, captured)
        used: dict[str, int] = {}
        for row in network.report.rows:
            kind = row.kernel.split()[0] if network.report.fast else "torch"
            used[kind] = used.get(kind, 0) + 1
        kernels[share] = used
        said += [f"{share:.0%}: {note}" for note in network.report.notes]
        runs[f"{share}"] = partial(call.run, network)
        modules.append(network)
    times = compare(runs, min_time=min_time, max_time=5 * min_time, models=[model, *modules])
    levels = {share: times.pop(f"{share}") for share in sparsity}
    return Bench(type(model).__name__, times, levels, kernels, tuple(said))


def zeroed(model: nn.Module, share: float) -> nn.Module:
    """A copy whose matrices have a share of zeros, the smallest weights."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        for module in twin.modules():
            for weight in _matrices(module):
                gone = int(share * weight.numel())
                places = weight.abs().flatten().argsort()[:gone]
                weight.view(-1)[places] = 0
    return twin


def _matrices(module: nn.Module) -> list[torch.Tensor]:
    """The weights of a layer that are worth to be pruned."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return [module.weight] if module.groups == 1 and module.in_channels > 4 else []
    if isinstance(module, nn.RNNBase):
        return [p for name, p in module.named_parameters(recurse=False) if "weight" in name]
    return [module.weight] if isinstance(module, nn.Linear) else []


def _cells(time: Latency, best: Latency) -> tuple[str, str, str]:
    ratio = best.median_ms / max(time.median_ms, 1e-9)
    return milliseconds(time.median_ms), milliseconds(time.spread_ms), f"{ratio:.2f}"
