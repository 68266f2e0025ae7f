"""From which density on a sparse kernel is faster than PyTorch's dense one, by kind of layer.

    python benchmarks/runtime.py breakeven

Every kernel that the engine would try is timed on zeros at random places (single weights, or blocks
of rows), on memory as in a network; dense is torch's own operation on the same activations.
Break-even is interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from secateur.core.batches import as_call
from secateur.core.errors import SecateurError
from secateur.engine import decide
from secateur.engine.capture import capture
from secateur.engine.fast import observed
from secateur.engine.fuse import fuse
from secateur.engine.kernels import names, planes_of
from secateur.engine.layout import lay_out

DENSITIES = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1x1, 64 to 256 at 56x56": (nn.Conv2d(64, 256, 1), (1, 64, 56, 56)),
    "1x1, 1024 to 256 at 14x14": (nn.Conv2d(1024, 256, 1), (1, 1024, 14, 14)),
    "3x3, 64 at 56x56": (nn.Conv2d(64, 64, 3, 1, 1), (1, 64, 56, 56)),
    "3x3, 256 at 14x14": (nn.Conv2d(256, 256, 3, 1, 1), (1, 256, 14, 14)),
    "3x3, 512 at 7x7": (nn.Conv2d(512, 512, 3, 1, 1), (1, 512, 7, 7)),
    "3x3, stride 2, 128 at 56x56": (nn.Conv2d(128, 128, 3, 2, 1), (1, 128, 56, 56)),
    "linear, 768 to 3072, 128 tokens": (nn.Linear(768, 3072), (1, 128, 768)),
    "linear, 2048 to 2048, 1 token": (nn.Linear(2048, 2048), (1, 2048)),
}
BLOCKS = {"3x3, 256 at 14x14": 4, "linear, 768 to 3072, 128 tokens": 4}
"""Layers that are timed with zeros in blocks of so many rows too."""


def ratios(layer: nn.Module, shape: Sequence[int], rows: int = 1) -> dict[float, float]:
    """Density -> dense time over the best sparse kernel's; rows: of a block of zeros."""
    found: dict[float, float] = {}
    full, x = layer.weight.detach().clone(), torch.randn(*shape)
    chance = torch.rand(len(full) // rows, *full.shape[1:]).repeat_interleave(rows, 0)
    for density in DENSITIES:
        layer.weight.data = full * (chance < density)
        graph = fuse(capture(nn.Sequential(layer), as_call(layer, x)))
        shapes, _ = observed(graph, [x])
        (node,) = (node for node in graph.nodes if node.op == "layer")
        sparse = graph.layers[node.name]
        layout = lay_out(graph, shapes, graph.layers)
        out = layout.values[node.name]
        inside = layout.split.get(node.name) or layout.values[node.refs[0]]
        planes = planes_of(sparse, inside, out)
        dense = decide._dense(sparse, shapes[node.refs[0]], shapes[node.name])
        best = float("inf")
        for name in names(sparse, planes, out.positions):
            try:
                run = decide._alone(name, sparse, planes, inside, out, 1)
            except SecateurError:
                continue
            best = min(best, min(decide._seconds(run) for _ in range(3)))
        found[density] = min(decide._seconds(dense) for _ in range(3)) / best
    layer.weight.data = full
    return found


def break_even(found: dict[float, float]) -> float | None:
    """The density at which the ratio is one, between those that were timed; None: below all.

    Example:
        >>> break_even({0.5: 0.5, 0.4: 1.5})
        0.45
    """
    before: tuple[float, float] | None = None
    for density, ratio in sorted(found.items(), reverse=True):
        if ratio >= 1:
            if before is None:
                return density
            share = (1 - before[1]) / (ratio - before[1])
            return round(before[0] + share * (density - before[0]), 3)
        before = density, ratio
    return None


def table(results: dict[str, Any]) -> list[str]:
    """Rows of Markdown: break-even, and how many times as fast below it."""
    shown = [0.5, 0.3, 0.2, 0.1, 0.05]
    lines = ["| layer | break-even | " + " | ".join(f"{d:.0%}" for d in shown) + " |"]
    lines.append("|---" * (2 + len(shown)) + "|")
    for name, part in results["layers"].items():
        even = part["break_even"]
        at = "none" if even is None else f"{'above ' * (even == max(DENSITIES))}{even:.0%}"
        values = " | ".join(f"{part['ratios'][str(d)]:.1f}" for d in shown)
        lines.append(f"| {name} | {at} | {values} |")
    return lines


def measured() -> dict[str, Any]:
    """All layers on this machine."""
    torch.manual_seed(0)
    layers = {}
    cases = [(name, name, 1) for name in LAYERS]
    cases += [(f"{name}, blocks of {rows} rows", name, rows) for name, rows in BLOCKS.items()]
    for name, of, rows in cases:
        found = ratios(*LAYERS[of], rows)
        layers[name] = {
            "break_even": break_even(found),
            "ratios": {str(d): r for d, r in found.items()},
        }
        print(name, {d: round(r, 2) for d, r in found.items()}, flush=True)
    return {"layers": layers}
