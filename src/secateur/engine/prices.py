"""What the layers of a network take with sparse kernels, at several densities, measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.batches import Call
from secateur.core.weight_site import WeightSite
from secateur.engine.decide import Shapes, assemble, decide
from secateur.engine.fast import observed
from secateur.engine.fuse import fuse
from secateur.engine.graph import Graph
from secateur.engine.program import Program
from secateur.measure.clock import compare
from secateur.measure.latency_cache import TimeCache, conditions
from secateur.units.pattern import Pattern


@dataclass(frozen=True)
class Prices:
    """Milliseconds of a run, by layer.

    layers: for each layer the weights that it reads, by name. densities: ascending, the last is 1.
    ms: for each layer the time at each of them, of the fastest kernel. rest_ms: what a run on
    kernels takes beyond these layers. whole_ms: the network as it is. All as in a whole run: on a
    busy machine layers take longer there than alone.
    """

    layers: Mapping[str, tuple[str, ...]]
    densities: tuple[float, ...]
    ms: Mapping[str, tuple[float, ...]]
    rest_ms: float
    whole_ms: float


def prices(
    model: nn.Module,
    call: Call,
    graph: Graph,
    sites: Sequence[WeightSite],
    pattern: Pattern,
    densities: Sequence[float],
    folder: Path | None = None,
) -> Prices:
    """Time every layer's kernels at several densities; weights stay by magnitude, in the pattern.

    graph: what `capture` gave of the model. densities: below 1, ascending. Layers' times are kept
    in the cache of `sc.compile`. The whole network is timed in turns with itself on kernels, at two
    densities; from these follows what is not in the layers.
    """
    values, _ = pytree.tree_flatten((call.args, dict(call.kwargs)))
    known = TimeCache(folder, conditions(torch.device("cpu"), torch.get_num_threads()))
    ends = {densities[0], min(densities, key=lambda density: abs(density - 0.5))}
    names: dict[str, tuple[str, ...]] = {}
    ms: dict[str, list[float]] = {}
    runs: list[tuple[float, float, float]] = []
    shapes: Shapes = {}
    with torch.no_grad():
        for density in (*densities, 1.0):
            fused = fuse(_thinned(graph, sites, pattern, density))
            shapes = shapes or observed(fused, values)[0]
            names = names or _readers(fused, sites)
            decisions = decide(fused, shapes, known)
            taken = dict.fromkeys(names, 0.0)
            for node, decision in decisions.items():
                label = fused.layers[node].label
                if label in taken:
                    taken[label] += decision.ms if density < 1 else decision.dense_ms
            for label, time in taken.items():
                ms.setdefault(label, []).append(time)
            if density in ends:
                program = Program(assemble(fused, shapes, decisions), values)
                runs.append((sum(taken.values()), *_timed(model, call, program, values)))
    stretch, rest = _line([(layers, after) for layers, _, after in runs])
    return Prices(
        names, (*densities, 1.0),
        {label: tuple(stretch * time for time in times) for label, times in ms.items()},
        rest, mean(before for _, before, _ in runs),
    )  # fmt: skip


def _timed(
    model: nn.Module, call: Call, program: Program, values: Sequence[object]
) -> tuple[float, float]:
    """Milliseconds of the model and of the same on kernels, in turns."""
    found = compare(
        {"before": partial(call.run, model), "after": partial(program, values)},
        min_time=0.1, max_time=2.0, models=[model],
    )  # fmt: skip
    return found["before"].median_ms, found["after"].median_ms


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Stretch (at least 1) and rest (at least 0) in `whole = stretch * layers + rest`.

    Example:
        >>> _line([(1.0, 4.0), (3.0, 8.0)]), _line([(1.0, 4.0)])
        ((2.0, 2.0), (1.0, 3.0))
    """
    (least, low), (most, high) = min(points), max(points)
    stretch = max(1.0, (high - low) / (most - least)) if most > least else 1.0
    return stretch, max(0.0, low - stretch * least)


def _thinned(graph: Graph, sites: Sequence[WeightSite], pattern: Pattern, density: float) -> Graph:
    """The graph with a part of each weight zero."""
    if density >= 1:
        return graph
    weights = dict(graph.weights)
    for site in sites:
        weight = weights.get(site.name)
        if isinstance(weight, Tensor):
            matrix = site.matrix(weight)
            keep = pattern.choose(matrix.abs(), density, site.taps)
            weights[site.name] = weight * site.tensor(keep)
    return replace(graph, weights=weights)


def _readers(graph: Graph, sites: Sequence[WeightSite]) -> dict[str, tuple[str, ...]]:
    """By layer the weights in scope that it reads."""
    found = {}
    for label in dict.fromkeys(layer.label for layer in graph.layers.values()):
        own = tuple(site.name for site in sites if site.name.rpartition(".")[0] == label)
        if own:
            found[label] = own
    return found


__all__ = ["Prices", "prices"]
