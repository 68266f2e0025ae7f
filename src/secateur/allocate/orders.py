"""Allocators that are an order of steps: each ranks every step down every ladder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.allocate.allocator import allocator
from secateur.allocate.densities import erdos_renyi
from secateur.allocate.ladder import Ladder, Vector, nonnegative
from secateur.core.site import Site

OUTLIER = 5.0
SPREAD = 0.08


@allocator("uniform", sparsity="each", paper="Zhu & Gupta, To Prune, or Not to Prune, 2017")
def uniform(ladders: Sequence[Ladder]) -> list[Vector]:
    """Every tie keeps the same fraction: the fullest ladder steps down next."""
    return [-_from(ladder) for ladder in ladders]


@allocator("global", paper="Liu et al., Learning Efficient Networks (Slimming), ICCV 2017")
def global_(ladders: Sequence[Ladder]) -> list[Vector]:
    """One threshold for all: the step whose removed indices score least on average is next.

    Scores are divided by their site's mean, so 1 is what an average index of a site is worth;
    those of a criterion that is comparable between sites (Taylor) by the mean of all sites.
    """
    return [ladder.steps() for ladder in ladders]


@allocator("isomorphic", paper="Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024")
def isomorphic(ladders: Sequence[Ladder]) -> list[Vector]:
    """One threshold for each class of alike structures; all classes lose the same fraction.

    Two ties are alike when their sites have the same roles on the same kinds of tensors.
    """
    classes: dict[object, list[int]] = {}
    for number, ladder in enumerate(ladders):
        classes.setdefault(_signature(ladder), []).append(number)
    keys: list[Vector] = [np.zeros(0)] * len(ladders)
    for members in classes.values():
        steps = [ladders[number].steps() for number in members]
        sizes = [_removed(ladders[number]) for number in members]
        fuller = np.concatenate(uniform.function([ladders[number] for number in members]))
        order = np.lexsort((fuller, np.concatenate(steps)))
        gone = np.empty(len(order))
        gone[order] = np.cumsum(np.concatenate(sizes)[order])
        gone /= max(1, sum(ladders[number].units(ladders[number].top) for number in members))
        parts = np.split(gone, np.cumsum([len(step) for step in steps])[:-1])
        for number, part in zip(members, parts, strict=True):
            keys[number] = part
    return keys


@allocator("erk", paper="Mocanu et al., SET, 2018; Evci et al., Rigging the Lottery, ICML 2020")
def erk(ladders: Sequence[Ladder]) -> list[Vector]:
    """Densities by shape: sites made by small weights keep more (Erdős–Rényi with kernels).

    A tie keeps the fraction `min(1, e * d)` with `d = (n_in + n_out + kernel sizes) / (n_in * n_out
    * kernel positions)`, sums over the weights that make its sites' outputs; the budget sets `e`,
    and whatever would exceed 1 stays whole while the others make up for it. What no weight makes
    (blocks) has the mean density.
    """
    shapes = [[shape for member in ladder.members for shape in member.shapes] for ladder in ladders]
    raw = np.array([erdos_renyi(each) for each in shapes])
    known = raw[raw > 0]
    raw[raw == 0] = known.mean() if len(known) else 1.0
    return [-_from(ladder) / density for ladder, density in zip(ladders, raw, strict=True)]


@allocator("lamp", paper="Lee et al., Layer-Adaptive Sparsity for Magnitude Pruning, ICLR 2021")
def lamp(ladders: Sequence[Ladder]) -> list[Vector]:
    """A step's score, divided by the sum of all scores of its tie that are at least as large.

    So each step's key is the share of what is left of its tie that it would take away, by level;
    the last index of any tie has the share 1, so that no tie is emptied before the others. Scores
    below zero count from their site's least.
    """
    return [_shares(ladder) for ladder in ladders]


@allocator("owl", paper="Yin et al., Outlier Weighed Layerwise Sparsity, ICML 2024")
def owl(ladders: Sequence[Ladder]) -> list[Vector]:
    """Ties with more outliers keep more: kept fractions differ by at most 0.16 between ties.

    An outlier is an index that scores more than 5 times its site's mean. The fraction that a tie
    keeps is linear in its share of outliers, between 0.08 below and 0.08 above the middle of the
    range; the budget moves all of them together. Without outliers this is "uniform" for all units.
    """
    shares = np.array([_outliers(ladder) for ladder in ladders])
    width = float(np.ptp(shares)) if len(shares) else 0.0
    more = 2 * SPREAD * (shares - shares.min()) / width if width > 0 else np.zeros(len(shares))
    return [extra - _from(ladder) for ladder, extra in zip(ladders, more, strict=True)]


@allocator("sensitivity", paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017")
def sensitivity(ladders: Sequence[Ladder]) -> list[Vector]:
    """One limit on the error for all: every tie shrinks as far as its own error stays below it.

    Errors are measured (a `Database`); without one, they are the share of its scores that a site
    loses (`Ladder.errors`).
    """
    return [ladder.errors()[-2::-1] for ladder in ladders]


def _from(ladder: Ladder) -> Vector:
    """The kept fraction before each step."""
    return ladder.fractions()[:0:-1]


def _removed(ladder: Ladder) -> Vector:
    """How many indices every step removes."""
    per_level = sum(member.ratio for member in ladder.members)
    return -np.diff(np.array(ladder.levels[::-1], dtype=np.float64)) * per_level


def _shares(ladder: Ladder) -> Vector:
    """The share of the rest that each step takes, by level; the first step first."""
    kept = np.zeros(len(ladder.levels))
    for member in ladder.members:
        total = np.concatenate([[0.0], np.cumsum(nonnegative(member.ranked))])
        kept += total[np.array(ladder.levels) * member.ratio]
    kept, levels = kept[::-1], np.array(ladder.levels[::-1], dtype=np.float64)
    taken = -np.diff(kept) / -np.diff(levels)
    return np.divide(taken, kept[:-1], out=np.zeros(len(taken)), where=kept[:-1] > 0)


def _outliers(ladder: Ladder) -> float:
    """The share of a tie's indices that score more than `OUTLIER` times their site's mean."""
    above = [
        float(np.mean(np.abs(m.ranked) > OUTLIER * np.abs(m.ranked).mean())) for m in ladder.members
    ]
    return sum(above) / max(1, len(above))


def _signature(ladder: Ladder) -> object:
    return bool(ladder.blocks), tuple(
        sorted(map(_kind, (member.site for member in ladder.members)))
    )


def _kind(site: Site) -> tuple[object, ...]:
    """What makes two sites alike: roles and kinds of tensors, but not names or how many."""
    slices = {
        (part.role, part.tensor.rpartition(".")[2], part.dim, type(part.layout).__name__)
        for part in site.slices
    }
    return site.unit, site.what, site.statistical, tuple(sorted(slices))
