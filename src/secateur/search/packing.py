"""Sparse kernels as a search sees them: what a network runs as, and what its layers take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from secateur.allocate.priced import Choices, priced
from secateur.core.weight_site import WeightSite
from secateur.search.weight_scan import LEVELS
from secateur.units.pattern import Pattern

DENSITIES = (0.02, 0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7)
"""Densities at which kernels are timed, besides 1; above the last one none is tried."""
_POINTS = 120


class Priced(Protocol):
    """Milliseconds by layer; see `engine.prices.Prices`."""

    @property
    def layers(self) -> Mapping[str, tuple[str, ...]]: ...  # noqa: D102
    @property
    def densities(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def ms(self) -> Mapping[str, Sequence[float]]: ...  # noqa: D102
    @property
    def rest_ms(self) -> float: ...  # noqa: D102
    @property
    def whole_ms(self) -> float: ...  # noqa: D102


class Packer(Protocol):
    """Makes a network run on sparse kernels, and says what its layers take."""

    def pack(self, model: nn.Module) -> nn.Module:
        """The network that runs, of a model with zeros."""
        ...

    def prices(
        self, sites: Sequence[WeightSite], pattern: Pattern, densities: Sequence[float]
    ) -> Priced:
        """Times of the layers at densities below 1, ascending, and at 1."""
        ...


def levels(pattern: Pattern) -> tuple[float, ...]:
    """The densities below 1 that a pattern may have.

    Example:
        >>> levels(Pattern(group=4, keep=2))
        (0.5,)
    """
    if pattern.keep is None:
        return DENSITIES
    assert isinstance(pattern.group, int)
    return (pattern.keep / pattern.group,)


def removed_energy(
    sites: Sequence[WeightSite], pattern: Pattern, weights: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    """How much of each weight's square goes at each of `LEVELS`, by magnitude; without data."""
    found = {}
    for site in sites:
        matrix = site.matrix(weights[site.name].detach()).float()
        whole = float(matrix.square().sum()) or 1.0
        kept = [pattern.choose(matrix.abs(), level, site.taps) for level in LEVELS]
        found[site.name] = np.array(
            [float((matrix * ~keep).square().sum()) / whole for keep in kept]
        )
    return found


def densities_for(
    table: Priced, errors: Mapping[str, np.ndarray], most_ms: float, fixed: bool
) -> dict[str, float]:
    """The density of every weight, so that a run is predicted to take at most `most_ms`.

    errors: by weight at each of `LEVELS`. fixed: only the densities of the table, none between.
    Weights that no kernel reads stay whole: nothing would be won.

    Raises:
        InfeasibleBudget: It cannot be that fast.
    """
    have = np.array(table.densities)
    grid = have if fixed else np.append(np.geomspace(have[0], have[-2], _POINTS), 1.0)
    at = np.log(np.array([*LEVELS[::-1], 1.0]))
    choices = {}
    for label, names in table.layers.items():
        lost = sum(np.interp(np.log(grid), at, [*errors[name][::-1], 0.0]) for name in names)
        ms = np.interp(np.log(grid), np.log(have), table.ms[label])
        choices[label] = Choices.of(grid, ms, lost)
    picked = priced(choices, most_ms - table.rest_ms)
    found = dict.fromkeys(errors, 1.0)
    for label, names in table.layers.items():
        found |= dict.fromkeys(names, picked[label])
    return found


def predicted(table: Priced, densities: Mapping[str, float]) -> float:
    """Milliseconds of a run at given densities."""
    at = np.log(np.array(table.densities))
    total = table.rest_ms
    for label, names in table.layers.items():
        falling = np.minimum.accumulate(np.array(table.ms[label])[::-1])[::-1]
        total += float(np.interp(np.log(densities[names[0]]), at, falling))
    return total


__all__ = [
    "DENSITIES", "Packer", "Priced", "densities_for", "levels", "predicted", "removed_energy",
]  # fmt: skip
