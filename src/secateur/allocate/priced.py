"""How much of each weight stays, so that a run takes no longer than it may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secateur.core.errors import InfeasibleBudget

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """What a weight, or several that one kernel reads, may keep.

    densities: ascending, the last is 1. ms: of a run at each. errors: what is lost at each, 0 at 1.
    """

    densities: Vector
    ms: Vector
    errors: Vector

    @classmethod
    def of(cls, densities: npt.ArrayLike, ms: npt.ArrayLike, errors: npt.ArrayLike) -> Choices:
        """Made plausible: fewer weights are never predicted to be slower, nor to lose less."""
        have = np.asarray(densities, np.float64)
        falling = np.minimum.accumulate(np.asarray(ms, np.float64)[::-1])[::-1]
        lost = np.nan_to_num(np.asarray(errors, np.float64), nan=1e30, posinf=1e30)
        return cls(have, falling, np.maximum.accumulate(lost[::-1])[::-1])


def priced(choices: Mapping[str, Choices], most_ms: float) -> dict[str, float]:
    """The densities that lose least among those that together take at most `most_ms`.

    A price of a millisecond is found at which the best choice of each meets the limit; what is left
    of the time then goes to those that lose most. Where a kernel wins nothing, all stays.

    Example:
        >>> slow = Choices.of([0.1, 0.5, 1.0], [1.0, 2.0, 9.0], [0.4, 0.1, 0.0])
        >>> quick = Choices.of([0.1, 0.5, 1.0], [0.5, 0.5, 0.5], [0.4, 0.1, 0.0])
        >>> priced({"slow": slow, "quick": quick}, 3.0)
        {'slow': 0.5, 'quick': 1.0}

    Raises:
        InfeasibleBudget: The fewest weights take longer.
    """
    least = sum(float(c.ms.min()) for c in choices.values())
    if least > most_ms * (1 + 1e-9):
        raise InfeasibleBudget(
            f"the kernels are predicted to take {least:.3g} ms where fewest weights stay, and "
            f"{most_ms:.3g} ms are left for them",
            hint="allow more time, or cut channels first",
        )
    low, high = -60.0, 60.0  # logarithms of the price
    for _ in range(100):
        price = (low + high) / 2
        low, high = (
            (low, price) if _total(choices, _best(choices, price)) <= most_ms else (price, high)
        )
    picks = _best(choices, high)
    _spend(choices, picks, most_ms - _total(choices, picks))
    return {name: float(choices[name].densities[pick]) for name, pick in picks.items()}


def _best(choices: Mapping[str, Choices], price: float) -> dict[str, int]:
    """The choice of each at a price; of equal ones the densest."""
    found = {}
    for name, c in choices.items():
        worth = c.errors + np.exp(price) * c.ms
        found[name] = len(worth) - 1 - int(np.argmin(worth[::-1]))
    return found


def _total(choices: Mapping[str, Choices], picks: Mapping[str, int]) -> float:
    return sum(float(choices[name].ms[pick]) for name, pick in picks.items())


def _spend(choices: Mapping[str, Choices], picks: dict[str, int], left: float) -> None:
    """Take denser choices for time that is left over, where most is lost first."""
    for name in sorted(picks, key=lambda name: -choices[name].errors[picks[name]]):
        c, pick = choices[name], picks[name]
        fits = np.flatnonzero(c.ms - c.ms[pick] <= left + 1e-12)
        left -= float(c.ms[fits[-1]] - c.ms[pick])
        picks[name] = int(fits[-1])


__all__ = ["Choices", "priced"]
