"""The edges between units: what one unit gives to one other, by the weight that carries it.

Bhaskar et al., Finding Transformer Circuits with Edge Pruning (NeurIPS 2024), have edges between
whole heads and blocks; here they lie between units, and there is one for each weight in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.layout import Layout, Mask
from secateur.interpret.ablate import Cut, Places, Reader
from secateur.interpret.attribute import Attribution, Loss, attribute
from secateur.interpret.smallest import smallest
from secateur.measure.linear import Parameters, Spec


@dataclass(frozen=True)
class Edges:
    """The edges that one weight carries.

    out, inside: which node every output and input position belongs to. pairs: `(output node, input
    node)` of each edge, `[n, 2]`. shape: of the weight.
    """

    reader: Reader
    out: Tensor
    inside: Tensor
    pairs: Tensor
    shape: tuple[int, ...]

    def cut(self, lost: Mask) -> Cut:
        """The weight without some of its edges: those where `lost` is True, `[n]`."""
        table = torch.zeros(int(self.out.max()) + 1, int(self.inside.max()) + 1, dtype=torch.bool)
        gone = self.pairs[torch.from_numpy(lost)]
        table[gone[:, 0], gone[:, 1]] = True
        where = table[self.out][:, self.inside]
        where = where if self.reader.dim == 1 else where.t()
        return Cut(where.reshape(*where.shape, *[1] * (len(self.shape) - 2)), self.reader.mean)

    def pooled(self, scores: Tensor) -> Tensor:
        """Scores by position `[out, in]` as a sum for each edge, `[n]`."""
        n, k = int(self.out.max()) + 1, int(self.inside.max()) + 1
        rows = scores.new_zeros(n, scores.shape[1]).index_add_(0, self.out, scores)
        table = scores.new_zeros(n, k).index_add_(1, self.inside, rows)
        return table[self.pairs[:, 0], self.pairs[:, 1]]


def edges_of(
    model: nn.Module, places: Places, keeps: Mapping[str, Mask] | None = None
) -> dict[str, Edges]:
    """The edges from units that are kept, to such and to outputs, by weight; zeros are none."""
    keeps = places.full() if keeps is None else keeps
    tensors = Parameters(model).tensors
    found = {}
    for name, reader in places.readers.items():
        weight = tensors.get(name)
        sources = reader.layout.names & keeps.keys()
        grouped = reader.mean.numel() != reader.layout.size
        if weight is None or not sources or grouped:  # inputs are no units
            continue
        out, given = _nodes(places.graph.layouts[name][1 - reader.dim], keeps)
        inside, read = _nodes(reader.layout, keeps, only=True)
        matrix = weight.detach().abs().double().cpu().movedim((1 - reader.dim, reader.dim), (0, 1))
        strength = matrix.reshape(*matrix.shape[:2], -1).sum(2) * given[:, None] * read
        every = torch.cartesian_prod(*(torch.arange(int(node.max()) + 1) for node in (out, inside)))
        table = Edges(reader, out, inside, every, tuple(weight.shape))
        pairs = every[table.pooled(strength) > 0]
        if len(pairs):
            found[name] = replace(table, pairs=pairs)
    return found


@dataclass(frozen=True)
class FoundEdges:
    """Edges that will do. outside, inside: cuts of all others between kept units, and of these.

    kept: the entries of weights that belong to them. total: how many they are, of how many in the
    whole model. passes: models that were run; complete: nothing was left untried.
    """

    outside: Mapping[str, Cut]
    inside: Mapping[str, Cut]
    kept: Mapping[str, Tensor]
    total: tuple[int, int]
    passes: int
    complete: bool


def smallest_edges(
    model: nn.Module,
    places: Places,
    batches: Sequence[Any],
    loss: Loss,
    keeps: Mapping[str, Mask],
    fine: Callable[[Mapping[str, Cut]], bool],
    passes: int,
) -> FoundEdges:
    """The fewest edges between kept units that will do; fine: whether cuts leave enough."""
    edges = edges_of(model, places, keeps)

    def without(kept: Mapping[str, Mask]) -> dict[str, Cut]:
        return {name: edges[name].cut(~mask) for name, mask in kept.items() if not mask.all()}

    found = smallest(
        {name: len(item.pairs) for name, item in edges.items()},
        lambda kept: edge_attributions(model, places, batches, loss, keeps, edges, without(kept)),
        lambda kept: fine(without(kept)),
        passes,
    )
    inside = {name: edges[name].cut(mask) for name, mask in found.keeps.items()}
    n = sum(int(mask.sum()) for mask in found.keeps.values())
    total = sum(len(item.pairs) for item in edges_of(model, places).values())
    kept = {name: cut.where for name, cut in inside.items()}
    return FoundEdges(without(found.keeps), inside, kept, (n, total), found.passes, found.complete)


def edge_attributions(
    model: nn.Module,
    places: Places,
    batches: Iterable[Any],
    loss: Loss,
    keeps: Mapping[str, Mask],
    edges: Mapping[str, Edges],
    cuts: Mapping[str, Cut],
) -> dict[str, Tensor]:
    """The estimated change of the loss if an edge were cut too, by weight, `[n]`, float64.

    Its absolute value, averaged over batches.
    """
    totals = {name: torch.zeros(len(e.pairs), dtype=torch.float64) for name, e in edges.items()}

    def add(mode: Attribution) -> None:
        assert isinstance(mode, _EdgeAttribution)
        for name, change in mode.changes.items():
            totals[name] += edges[name].pooled(change).abs()

    gates = places.gates(keeps)
    seen = attribute(
        model, batches, loss, lambda watch: _EdgeAttribution(watch, gates, places, cuts), add
    )
    return {name: total / seen for name, total in totals.items()}


class _EdgeAttribution(Attribution):
    """Meets gradients of what weights give: with what they read, they say what each entry does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.changes: dict[str, Tensor] = {}

    def dense(self, spec: Spec, rows: Tensor, gradient: Tensor) -> None:
        mean = self.places.readers[spec.weight].mean.to(rows.device)
        weight = self.parameters.tensors[spec.weight].detach()
        slope = gradient.double().t() @ (rows.double() - mean.double())
        change = torch.zeros(*self._flat(spec.weight, weight).shape[:2], dtype=torch.float64)
        part = slice(None) if spec.rows is None else slice(*spec.rows)
        change[part] = -(spec.matrix(weight)[0].double() * slope).cpu()
        self._take(spec.weight, change)

    def convolution(self, name: str, args: Sequence[Any]) -> None:
        x, weight = args[1], args[2]
        reader = self.places.readers[name]
        if reader.mean.numel() != reader.layout.size:
            return
        centred = x - reader.mean.to(x.device, x.dtype).view(-1, *[1] * (x.dim() - 2))
        mask = [False, True, False]
        slope = torch.ops.aten.convolution_backward(args[0], centred, weight, *args[3:10], mask)[1]
        change = -(weight.detach().double() * slope.double()).cpu()
        self._take(name, self._flat(name, change).sum(2))

    def _flat(self, name: str, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as `[out, in, taps]`."""
        dim = self.places.readers[name].dim
        turned = weight.movedim((1 - dim, dim), (0, 1))
        return turned.reshape(*turned.shape[:2], -1)

    def _take(self, name: str, change: Tensor) -> None:
        self.changes[name] = self.changes[name] + change if name in self.changes else change


def _nodes(layout: Layout, keeps: Mapping[str, Mask], only: bool = False) -> tuple[Tensor, Tensor]:
    """The node of every position, and which positions are kept; others than units are nodes too.

    only: positions that belong to no unit are not kept.
    """
    node = np.full(layout.size, -1, dtype=np.int64)
    kept = np.ones(layout.size, dtype=np.bool_)
    start = 0
    for name in sorted(layout.names & keeps.keys()):
        where = layout.coordinate(name)
        owned = where >= 0
        node = np.where(owned & (node < 0), where + start, node)
        kept[owned] &= keeps[name][where[owned]]
        start += len(keeps[name])
    alone = node < 0
    kept &= ~alone | (not only)
    node[alone] = start + np.arange(int(alone.sum()))
    _, dense = np.unique(node, return_inverse=True)
    return torch.from_numpy(dense.reshape(-1)), torch.from_numpy(kept)


__all__ = ["Edges", "FoundEdges", "edge_attributions", "edges_of", "smallest_edges"]
