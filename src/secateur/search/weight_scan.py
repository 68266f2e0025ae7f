"""How much of each weight should stay: by what removing it does to the outputs, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.weight_site import WeightSite
from secateur.recover.distance import distance, outputs
from secateur.units.pattern import Pattern

LEVELS = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.015)
"""Densities at which every tensor is looked at, alone, the others dense."""
_GRID = 400


def scan(
    model: nn.Module,
    sites: Sequence[WeightSite],
    pattern: Pattern,
    scores: Mapping[str, Tensor],
    calls: Sequence[Call],
) -> dict[str, npt.NDArray[np.float64]]:
    """How far the outputs move when one weight alone keeps each of `LEVELS`; `[levels]` by name.

    The model is left as it was. Takes a pass over the calls for each weight and level.
    """
    dense = outputs(model, calls)
    found = {}
    for site in sites:
        parameter = model.get_parameter(site.name)
        weight, score = parameter.detach().clone(), scores[site.name]
        errors = []
        try:
            for level in LEVELS:
                keep = pattern.choose(score, level, site.taps)
                with torch.no_grad():
                    parameter.copy_(weight * site.tensor(keep).to(weight.device))
                errors.append(distance(dense, outputs(model, calls)))
        finally:
            with torch.no_grad():
                parameter.copy_(weight)
        found[site.name] = np.array(errors)
    return found


def balanced(
    errors: Mapping[str, npt.NDArray[np.float64]], sizes: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """The densities whose errors have the least sum, so that `sparsity` of all entries go.

    Errors are interpolated between levels, over the logarithm of the density (they are 0 where all
    stays), and made to grow as the density falls. A price for each entry that stays is found at
    which the cheapest densities of all weights together meet the sparsity.

    Example:
        >>> flat, steep = np.linspace(0, 0.01, len(LEVELS)), np.linspace(0, 1, len(LEVELS))
        >>> found = balanced({"a": flat, "b": steep}, {"a": 100, "b": 100}, 0.5)
        >>> {name: round(density, 1) for name, density in found.items()}
        {'a': 0.3, 'b': 0.7}
    """
    grid = np.geomspace(LEVELS[-1], 1.0, _GRID)
    at = np.log(np.array([1.0, *LEVELS]))[::-1]
    curves = {}
    for name, values in errors.items():
        rising = np.maximum.accumulate([0.0, *np.nan_to_num(values, posinf=1e30)])
        curves[name] = np.interp(np.log(grid), at, rising[::-1])
    total = (1 - sparsity) * sum(sizes.values())
    least, most = -40.0, 40.0  # logarithms of the price of an entry
    for _ in range(80):
        price = (least + most) / 2
        have = sum(sizes[n] * d for n, d in _cheapest(curves, sizes, grid, price).items())
        least, most = (least, price) if have <= total else (price, most)
    found = _cheapest(curves, sizes, grid, most)
    have = sum(sizes[name] * density for name, density in found.items())
    if have > total:  # less than the lowest level of all
        return {name: density * total / have for name, density in found.items()}
    left = total - have  # what the steps of the curves leave goes to those that are not whole
    for name in sorted(found, key=lambda name: -curves[name][0] / sizes[name]):
        more = min(left, sizes[name] * (1 - found[name]))
        found[name] += more / sizes[name]
        left -= more
    return found


def _cheapest(
    curves: Mapping[str, npt.NDArray[np.float64]],
    sizes: Mapping[str, int],
    grid: npt.NDArray[np.float64],
    price: float,
) -> dict[str, float]:
    whole = sum(sizes.values())
    return {
        name: float(grid[np.argmin(curve + np.exp(price) * sizes[name] / whole * grid)])
        for name, curve in curves.items()
    }


__all__ = ["LEVELS", "balanced", "scan"]
