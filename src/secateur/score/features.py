"""Scores by feature maps: HRank and CHIP."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, prod

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.measure.stats_inputs import double
from secateur.score.consumers import consumers, positions, unread
from secateur.score.criterion import Facts, criterion

_HRANK = "Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020"
_CHIP = "Sui et al., CHIP: CHannel Independence-based Pruning, NeurIPS 2021"
_WORK = 2**29  # multiplications for the spectra of one batch of maps, roughly


@criterion("hrank", needs="features", paper=_HRANK)
def hrank(site: Site, facts: Facts) -> Tensor:
    """Mean rank of an index's feature map `[height, width]`, as its consumers read it; shape `[n]`.

    The rank is numerical (`torch.linalg.matrix_rank`). Averaged over the consumers and over the
    channels of an index. A map that was flattened counts as a square, if it may be one, else as one
    row; where there is no space at all, the map of one value has rank 1 unless it is 0. A site that
    no linear operation reads is scored by `l1`, with a note.
    """
    return _scored(site, facts, "hrank", _ranks)


@criterion("chip", needs="features", paper=_CHIP)
def chip(site: Site, facts: Facts) -> Tensor:
    """Fall of the nuclear norm of the feature maps `[channels, positions]` without an index; `[n]`.

    ‖A‖_* - ‖A with the index's rows zeroed‖_*, averaged over samples and consumers. Where there is
    no space, the samples of a batch are the positions. For the cost of their spectra, wide sites
    look at fewer samples of every batch, and very wide ones at fewer positions, evenly spread. A
    site that no linear operation reads: as for `hrank`.
    """
    return _scored(site, facts, "chip", _independence)


def _scored(site: Site, facts: Facts, name: str, score: Callable[[Tensor], Tensor]) -> Tensor:
    total: list[Tensor] = []
    features = facts.get("features")
    for part in consumers(site, features):
        x = features[part.tensor]
        found = positions(part.layout, site.name, site.n, 1, x.shape[1])
        if found is None:  # a grouped convolution: the same places of every group
            groups = x.shape[1] // max(1, part.layout.size)
            found = positions(part.layout, site.name, site.n, groups, part.layout.size)
            if found is not None and groups > 1:
                steps = torch.arange(groups) * part.layout.size
                found = (found[:, None] + steps[:, None]).reshape(site.n, -1)
        if found is not None:
            maps = x[:, found.to(x.device)]  # [samples, n, channels, *space]
            if x.dim() == 2:  # what was flattened
                maps = maps[:, :, None]
            total.append(score(maps).cpu())
    if not total:
        return unread(site, facts, name).cpu()
    return torch.stack(total).mean(0)


def _ranks(maps: Tensor) -> Tensor:
    """Mean rank by index, of `[samples, n, channels, *space]`."""
    size, width = prod(maps.shape[3:]), maps.shape[-1]
    if maps.dim() == 4 and isqrt(size) ** 2 == size:
        width = isqrt(size)
    shaped = maps.reshape(*maps.shape[:3], -1, max(1, width))
    precision = torch.finfo(maps.dtype).eps * max(shaped.shape[3:])
    return torch.linalg.matrix_rank(double(shaped), rtol=precision).double().mean((0, 2))


def _independence(maps: Tensor) -> Tensor:
    """Fall of the nuclear norm by index, of `[samples, n, channels, *space]`.

    Singular values are roots of eigenvalues of the smaller Gram matrix, from which an index goes.
    """
    a = double(maps.reshape(*maps.shape[:3], -1))
    if a.shape[2:] == (1, 1):
        a = a.permute(3, 1, 2, 0)
    _, n, each, size = a.shape
    widest = max(1, int((_WORK / n) ** (1 / 3)))
    if min(n * each, size) > widest:
        a = a[..., :: -(-size // widest)]
        size = a.shape[3]
    rows = n * each
    a = a[: max(1, _WORK // (n * min(rows, size) ** 3))].reshape(-1, n, each, size)
    flat = a.flatten(1, 2)
    gram = flat @ flat.mT if rows <= size else flat.mT @ flat
    whole = _roots(gram)
    falls = []
    for index in range(n):
        if rows <= size:
            left = torch.ones(rows, dtype=torch.bool, device=a.device)
            left[index * each : (index + 1) * each] = False
            without = gram[:, left][:, :, left]
        else:
            without = gram - a[:, index].mT @ a[:, index]
        falls.append((whole - _roots(without)).mean())
    return torch.stack(falls)


def _roots(gram: Tensor) -> Tensor:
    """Sum of the roots of the eigenvalues, of `[..., k, k]`."""
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum(-1)
