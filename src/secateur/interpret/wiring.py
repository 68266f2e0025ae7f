"""Which unit feeds which, with what weight: the sites of a model as columns of a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.drawing import Drawing, Edge, Node
from secateur.core.layout import Layout, Mask
from secateur.interpret.ablate import Places
from secateur.measure.linear import Parameters

Sizes = Mapping[str, Tensor]


def wiring(
    model: nn.Module,
    places: Places,
    keeps: Mapping[str, Mask] | None = None,
    *,
    title: str = "",
    sizes: Sizes | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    bare: bool = True,
    only: Mapping[str, Tensor] | None = None,
) -> Drawing:
    """Kept units as nodes, and the weights between them that are not zero as edges.

    Of units that several weights connect (kernel positions, heads) an edge has the root of their
    squared sum, else the weight itself. Inputs and outputs of the model, and other dimensions that
    are no site, are columns too. sizes: how much each unit matters, by site. inputs, outputs: names
    of what the first columns read and what the last ones give. bare: show nodes without an edge.
    only: the entries of weights that are drawn, by weight, where not all are.
    """
    columns = _Columns(places, keeps or {})
    tensors = dict(model.named_parameters())
    used = Parameters(model)
    for name, reader in places.readers.items():
        weight = tensors.get(name)
        layouts = places.graph.layouts[name]
        if weight is None or weight.dim() < 2 or name not in used.tensors:
            continue
        if reader.mean.numel() != reader.layout.size:  # grouped: a channel feeds itself
            continue
        out_dim = 1 - reader.dim
        shown = weight.detach().double().cpu()
        if only and name in only:
            shown = shown * only[name]
        matrix = shown.movedim((out_dim, reader.dim), (0, 1))
        taps = matrix.reshape(*matrix.shape[:2], -1)
        columns.connect(name, taps, layouts[out_dim], reader.layout)
    drawn = columns.drawing(title, sizes or {}, inputs, outputs)
    return drawn if bare else _connected(drawn)


class _Columns:
    """Grows as weights come in the order in which they run."""

    def __init__(self, places: Places, keeps: Mapping[str, Mask]) -> None:
        self.sites = {site.name: site for site in places.sites}
        self.keeps = keeps
        self.depth: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.read: set[str] = set()
        self.made: set[str] = set()
        self.edges: dict[tuple[str, str], Tensor] = {}

    def connect(self, name: str, matrix: Tensor, out: Layout, inside: Layout) -> None:
        sources = self._leaves(inside, f"in {name}")
        targets = self._leaves(out, f"out {name}")
        for source in sources:
            self.depth.setdefault(source, 0)
            self.read.add(source)
            for target in targets:
                self.made.add(target)
                if target not in self.read:
                    self.depth[target] = max(self.depth.get(target, 0), self.depth[source] + 1)
                if source == target:
                    continue
                pooled = _pooled(matrix, self._where(out, target), self._where(inside, source))
                old = self.edges.get((source, target))
                both = pooled if old is None else torch.hypot(old, pooled)
                self.edges[source, target] = both

    def drawing(
        self,
        title: str,
        sizes: Sizes,
        inputs: Sequence[str] | None,
        outputs: Sequence[str] | None,
    ) -> Drawing:
        names = sorted(self.depth, key=lambda name: self.depth[name])
        rows = {name: self._kept(name) for name in names}
        names = [name for name in names if len(rows[name])]
        place = {name: k for k, name in enumerate(names)}
        heads, columns = [], []
        for name in names:
            labels = inputs if name not in self.made else outputs if name not in self.read else None
            what = self.sites[name].what if name in self.sites else ""
            kind = "inputs" if name not in self.made else "outputs" if name not in self.read else ""
            heads.append(" ".join(name.split(" ")[-1:]) if what else kind or name.split(" ")[-1])
            columns.append(tuple(self._node(name, int(k), labels, sizes, what) for k in rows[name]))
        edges = [
            Edge((place[a], i), (place[b], k), float(values[rows[b][k], rows[a][i]]))
            for (a, b), values in self.edges.items()
            if a in place and b in place
            for k in range(len(rows[b]))
            for i in range(len(rows[a]))
            if values[rows[b][k], rows[a][i]] != 0
        ]
        return Drawing(title, tuple(heads), tuple(columns), tuple(edges))

    def _leaves(self, layout: Layout, other: str) -> list[str]:
        found = sorted(layout.names & self.sites.keys())
        if found:
            for name in found:
                self.counts[name] = self.sites[name].n
            return found
        self.counts[other] = layout.size
        return [other]

    def _where(self, layout: Layout, name: str) -> Tensor:
        """For every position the node that it belongs to, or -1."""
        if name in self.sites:
            return torch.from_numpy(layout.coordinate(name))
        return torch.arange(layout.size)

    def _kept(self, name: str) -> np.ndarray:
        mask = self.keeps.get(name)
        return np.arange(self.counts[name]) if mask is None else np.flatnonzero(mask)

    def _node(
        self, name: str, k: int, labels: Sequence[str] | None, sizes: Sizes, what: str
    ) -> Node:
        label = labels[k] if labels is not None and len(labels) == self.counts[name] else str(k)
        if name not in sizes:
            return Node(label, f"{what} {label}".strip())
        values = sizes[name].abs()
        largest = max((float(v.abs().max()) for v in sizes.values() if v.numel()), default=0.0)
        share = float(values[k]) / largest if largest else 0.0
        return Node(label, f"{what} {k} of {name}: {float(sizes[name][k]):.4g}", share)


def _connected(drawing: Drawing) -> Drawing:
    """Without the nodes, but for those of the last column, from which no path goes to it."""
    last = len(drawing.columns) - 1
    alive = {(last, row) for row in range(len(drawing.columns[last]))}
    edges = list(drawing.edges)
    while True:
        more = {edge.start for edge in edges if edge.end in alive} - alive
        if not more:
            break
        alive |= more
    fed = {(0, row) for row in range(len(drawing.columns[0]))} | {
        edge.end for edge in edges if edge.start in alive
    }
    alive = {place for place in alive if place in fed or place[0] == last}
    places = {}
    columns = []
    for column, nodes in enumerate(drawing.columns):
        rows = [row for row in range(len(nodes)) if (column, row) in alive]
        places.update({(column, old): (column, new) for new, old in enumerate(rows)})
        columns.append(tuple(nodes[row] for row in rows))
    kept = [e for e in edges if e.start in places and e.end in places]
    moved = [Edge(places[e.start], places[e.end], e.weight) for e in kept]
    return Drawing(drawing.title, drawing.heads, tuple(columns), tuple(moved))


def _pooled(matrix: Tensor, out: Tensor, inside: Tensor) -> Tensor:
    """`[out, in, taps]` by node: signed where one weight connects two of them."""
    n, k = int(out.max()) + 1, int(inside.max()) + 1
    rows, columns = out >= 0, inside >= 0
    alone = matrix.shape[2] == 1 and int(rows.sum()) == n and int(columns.sum()) == k
    values = matrix[..., 0] if alone else matrix.square().sum(2)
    found = values.new_zeros(n, values.shape[1]).index_add_(0, out[rows], values[rows])
    found = found.new_zeros(n, k).index_add_(1, inside[columns], found[:, columns])
    return found if alone else found.sqrt()


__all__ = ["wiring"]
