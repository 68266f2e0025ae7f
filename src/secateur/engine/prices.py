"""What the layers of a network take with sparse kernels, at several densities, measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.batches import Call
from secateur.core.weight_site import WeightSite
from secateur.engine.decide import Shapes, decide
from secateur.engine.fast import observed
from secateur.engine.fuse import fuse
from secateur.engine.graph import Graph
from secateur.measure.clock import measure
from secateur.measure.latency_cache import TimeCache, conditions
from secateur.units.pattern import Pattern


@dataclass(frozen=True)
class Prices:
    """Milliseconds of a run, by layer.

    layers: for each layer the weights that it reads, by name. densities: ascending, the last is 1.
    ms: for each layer the time at each of them, of the fastest kernel. rest_ms: what is no such
    layer. whole_ms: the network as it is, measured.
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

    graph: what `capture` gave of the model. densities: below 1, ascending. Times are kept in the
    cache of `sc.compile`, so that a second call takes only the time to make the zeros.
    """
    values, _ = pytree.tree_flatten((call.args, dict(call.kwargs)))
    known = TimeCache(folder, conditions(torch.device("cpu"), torch.get_num_threads()))
    whole = measure(model, call, repeats=10, min_time=0.1).median_ms
    names: dict[str, tuple[str, ...]] = {}
    ms: dict[str, list[float]] = {}
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
    full = sum(times[-1] for times in ms.values())
    scale = min(1.0, whole / full) if full else 1.0
    return Prices(
        names, (*densities, 1.0),
        {label: tuple(scale * time for time in times) for label, times in ms.items()},
        whole - scale * full, whole,
    )  # fmt: skip


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
