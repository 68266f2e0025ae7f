"""Scores by how much an index resembles others: FPGM and folding."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion
from secateur.score.magnitude import block

_FPGM = "He et al., Filter Pruning via Geometric Median (FPGM), CVPR 2019"
_FOLDING = "Wang et al., Forget the Data and Fine-tuning! Just Fold the Network, ICLR 2025"
_ROUNDS = 25


@criterion("fpgm", paper=_FPGM)
def fpgm(site: Site, facts: Facts) -> Tensor:
    """Sum of Euclidean distances between an index's weights and those of all others; shape `[n]`.

    The weights are those that produce the index, of all layers together. What lies near the middle
    can be stood in for by the rest. Blocks are scored by the sum of |w|. Float64.
    """
    if site.module is not None:
        return block(site, facts, lambda _, w: accumulator(w).abs())
    return distances(rows(site, facts)).sum(1)


@criterion("folding", "kmeans", paper=_FOLDING)
def folding(site: Site, facts: Facts) -> Tensor:
    """Distance of an index's weights to those of the index that would stand in for it; `[n]`.

    K-means (seeded by `facts.seed` and the site's name) puts the indices into n / 2 clusters. Of
    each, the member nearest to the centre represents it. The others score their distance to it. The
    representatives score above all others: by the distance to the nearest other representative.
    Weights and blocks: as for `fpgm`.
    """
    if site.module is not None:
        return block(site, facts, lambda _, w: accumulator(w).abs())
    found = rows(site, facts)
    if site.n < 2:
        return found.square().sum(1).sqrt()
    generator = torch.Generator().manual_seed(crc32(f"{facts.seed}/{site.name}".encode()))
    cluster, centres = kmeans(found, (site.n + 1) // 2, generator)
    from_centre = (found - centres[cluster]).square().sum(1)
    apart = distances(found)
    scores = torch.zeros(site.n, dtype=torch.float64)
    chosen = []
    for each in cluster.unique():
        members = (cluster == each).nonzero()[:, 0]
        stands = members[from_centre[members].argmin()]
        scores[members] = apart[members, stands]
        chosen.append(int(stands))
    others = apart[chosen][:, chosen].fill_diagonal_(torch.inf)
    nearest = others.min(1).values if len(chosen) > 1 else found[chosen].square().sum(1).sqrt()
    scores[chosen] = scores.max() + nearest
    return scores


def rows(site: Site, facts: Facts) -> Tensor:
    """All weights that produce an index, one after the other: `[n, weights]`, float64, on the CPU.

    Sites without producing matrices: all parameters that they have.
    """
    parts = [p for p in site.slices if p.tensor in facts.tensors and p.role != "buffer"]
    matrices = [p for p in parts if p.role == "out" and facts.tensors[p.tensor].dim() > 1]
    found = []
    for part in matrices or parts:
        weight = accumulator(facts.tensors[part.tensor].detach()).double().cpu()
        flat = weight.movedim(part.dim, 0).reshape(weight.shape[part.dim], -1)
        owner = torch.from_numpy(part.layout.coordinate(site.name))
        order = owner.argsort(stable=True)
        order = order[owner[order] >= 0]
        if len(order) % site.n == 0 and len(order):
            found.append(flat[order].reshape(site.n, -1))
    return torch.cat(found, 1) if found else torch.zeros(site.n, 1, dtype=torch.float64)


def distances(rows: Tensor) -> Tensor:
    """Euclidean distances between all rows: `[n, n]`."""
    return torch.cdist(rows, rows).fill_diagonal_(0)


def kmeans(rows: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clusters `[n]` and their centres `[k, d]`, by Lloyd's rounds from k-means++ centres.

    Arthur and Vassilvitskii: k-means++ (2007). An emptied cluster keeps its centre.
    """
    first = torch.randint(len(rows), (1,), generator=generator)
    centres = rows[first]
    nearest = torch.full((len(rows),), torch.inf, dtype=rows.dtype)
    while len(centres) < k:
        nearest = nearest.minimum((rows - centres[-1]).square().sum(1))
        weights = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
        drawn = torch.multinomial(weights.nan_to_num(0, 0, 0) + 1e-300, 1, generator=generator)
        centres = torch.cat([centres, rows[drawn]])
    cluster = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(_ROUNDS):
        before, cluster = cluster, torch.cdist(rows, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, cluster, rows)
        counts = torch.bincount(cluster, minlength=k)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        if bool((before == cluster).all()):
            break
    return cluster, centres
