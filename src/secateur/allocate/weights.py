"""Which single weights stay: what part of each tensor, and which ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from secateur.allocate.densities import FIXED, densities
from secateur.allocate.owl import owl
from secateur.allocate.threshold import threshold
from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.weight_site import WeightSite
from secateur.score.criterion import Facts
from secateur.score.run import Source
from secateur.score.weight import WeightCriterion, lamp
from secateur.score.weight_data import wanda
from secateur.score.weight_run import WeightScores, weight_scores
from secateur.units.pattern import Pattern

ALLOCATIONS = (*FIXED, "global", "lamp", "owl")
"""What can be said of `allocate` for single weights without looking at the network's outputs
("sensitivity" does, see `search/weights.py`); a density for each weight is the other way."""

Allocate = str | Mapping[str, float]


def cells(site: WeightSite, pattern: Pattern) -> int:
    """How many cells of a pattern a weight has; entries, where cells are single."""
    matrix = site.matrix(torch.empty(site.shape, device="meta"))
    return replace(pattern, group=None).pool(matrix, site.taps).numel()


def allocated(
    how: Allocate,
    sites: Sequence[WeightSite],
    pattern: Pattern,
    sparsity: float,
    scores: Mapping[str, Tensor],
    facts: Facts,
    gather: Source | None = None,
) -> dict[str, float]:
    """The part of each weight that stays, so that at most `1 - sparsity` of all cells do.

    how: "uniform", "erk" or "er" (by shapes), "global" (the best scores of all tensors together),
    "lamp" (the best LAMP scores of magnitudes), "owl" (more where there are more outliers; needs
    data), or densities by name.

    Global thresholds are exact, and see one tensor at a time (see `threshold`). Papers: Lee et al.,
    LAMP, ICLR 2021; Yin et al., Outlier Weighed Layerwise Sparsity (OWL), ICML 2024.

    Raises:
        RecipeError: There is no such allocation, or the pattern fixes what stays.
    """
    if isinstance(how, str) and how not in ALLOCATIONS:
        raise RecipeError(
            f"there is no allocation of weights called {how!r}", hint=did_you_mean(how, ALLOCATIONS)
        )
    if pattern.keep is not None and how != "uniform":
        raise RecipeError(
            f"allocate={how!r}: an n:m pattern keeps the same part of every weight",
            hint="leave allocate out, or use unit=Weight()",
        )
    if how == "owl":
        wandas = weight_scores(wanda, sites, facts, gather)
        return owl(wandas, {site.name: site.n for site in sites}, sparsity)
    if how == "lamp":
        scores = WeightScores(lamp, sites, facts)
    if how not in ("global", "lamp"):
        return densities(how, sites, sparsity)
    sizes = {site.name: cells(site, pattern) for site in sites}
    kept = _together(sites, pattern, scores, int(sum(sizes.values()) * (1 - sparsity) + 1e-9))
    return {name: kept[name] / size for name, size in sizes.items()}


def _together(
    sites: Sequence[WeightSite], pattern: Pattern, scores: Mapping[str, Tensor], keep: int
) -> dict[str, int]:
    """How many cells of each weight are among the best; at least one of each stays."""
    alone = replace(pattern, group=None)

    def pooled() -> Iterator[Tensor]:
        for site in sites:
            yield alone.pool(scores[site.name], site.taps)

    extra = 0
    while True:
        found, seen = threshold(pooled, max(0, keep - extra)), 0
        kept = dict[str, int]()
        for site, values in zip(sites, pooled(), strict=True):
            stays, seen = found.split(values, seen)
            kept[site.name] = int(stays.sum())
        empty = sum(count == 0 for count in kept.values())
        if empty <= extra or keep <= empty:
            return {name: max(1, count) for name, count in kept.items()}
        extra = empty


def chosen(
    used: WeightCriterion,
    sites: Sequence[WeightSite],
    pattern: Pattern,
    shares: Mapping[str, float],
    scores: WeightScores,
) -> Iterator[tuple[WeightSite, Tensor, Tensor | None]]:
    """For each weight the mask `[out, k]` and, where the criterion updates weights, the new ones.

    Raises:
        RecipeError: The criterion exchanges weights, which the pattern does not allow.
    """
    if used.refine is not None and (
        isinstance(pattern.group, int) or (pattern.rows, pattern.columns) != (1, 1)
    ):
        raise RecipeError(
            f"{used.name!r} exchanges weights of a row, which would break the pattern",
            hint="use unit=Weight(per='row'), or the criterion 'wanda'",
        )
    for site in sites:
        keep = pattern.choose(scores[site.name], shares[site.name], site.taps)
        if used.refine is not None:
            keep = used.refine(site, scores.facts, keep)
        update = used.update
        yield site, keep, None if update is None else update(site, scores.facts, keep)


def in_rounds(
    used: WeightCriterion,
    sites: Sequence[WeightSite],
    pattern: Pattern,
    sparsity: float,
    look: Callable[[Mapping[str, Tensor]], tuple[Facts, Source]],
) -> dict[str, Tensor]:
    """Scores of a criterion that is asked anew in rounds while weights go; `[out, k]` by name.

    look: for masks (of parameters' shapes) the facts of the network that is so masked, and where
    more come from. After round t of R a density of `(1 - sparsity) ** (t / R)` is left. What goes
    earlier scores less; those that stay to the end score by the last round. Memory: 5 bytes a
    weight.
    """
    ranks = {site.name: torch.zeros(site.shape) for site in sites}
    masks = {site.name: torch.ones(site.shape, dtype=torch.bool) for site in sites}
    total = sum(cells(site, pattern) for site in sites)
    for number in range(1, used.rounds + 1):
        facts, gather = look(masks)
        scored = weight_scores(used, sites, facts, gather)
        peak = max(float(scored[site.name].max()) for site in sites) or 1.0

        def left(
            scored: WeightScores = scored,
            peak: float = peak,
            before: Mapping[str, Tensor] = masks,
        ) -> Iterator[Tensor]:
            for site in sites:
                alive = site.matrix(before[site.name])
                values = (scored[site.name] / peak).float()  # products of layers exceed float32
                values = values.masked_fill(~alive.to(values.device), float("-inf"))
                yield pattern.pool(values, site.taps)

        keep = int(total * (1 - sparsity) ** (number / used.rounds))
        found, seen = threshold(left, keep), 0
        fresh = dict[str, Tensor]()
        for site, values in zip(sites, left(), strict=True):
            stays, seen = found.split(values, seen)
            out, width = site.matrix(masks[site.name]).shape
            fresh[site.name] = site.tensor(pattern.spread(stays, (out, width), site.taps)).cpu()
        masks = fresh
        for name, mask in masks.items():
            ranks[name] += mask
    return {site.name: site.matrix(ranks[site.name]) for site in sites}


__all__ = ["ALLOCATIONS", "Allocate", "allocated", "cells", "chosen", "in_rounds"]
