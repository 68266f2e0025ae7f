"""The smallest set of units that will do: estimates say what to try, real ablations decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from secateur.core.layout import Mask
from secateur.interpret.ablate import Places

_PROGRESS = 0.05  # part of the units that a round has to remove for there to be another
_CHUNKS = 8


@dataclass(frozen=True)
class Found:
    """What stays, by site; passes: networks that were run; complete: nothing was left untried."""

    keeps: dict[str, Mask]
    passes: int
    complete: bool


def smallest(
    places: Places,
    estimate: Callable[[Mapping[str, Mask]], Mapping[str, Tensor]],
    fine: Callable[[Mapping[str, Mask]], bool],
    passes: int,
) -> Found:
    """Remove units as long as what is left is fine.

    The units that are estimated to matter least go first, as many at once as bisection finds
    (`fine` is taken to be monotone), and the rest is estimated anew, while that gets somewhere.
    Then chunks of the units that are left are tried, and halves of these, down to single ones, the
    least important first (as in Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing
    Input, 2002).

    estimate: how much each unit matters, by site `[n]`, while others are ablated. passes: calls of
    `fine` at most.
    """
    flat = _Flat(places)
    keep: Mask = np.ones(places.total, dtype=np.bool_)
    used = 0

    def good(without: npt.NDArray[np.int64]) -> bool:
        nonlocal used
        used += 1
        candidate = keep.copy()
        candidate[without] = False
        return fine(flat.masks(candidate))

    while True:
        order = flat.order(estimate(flat.masks(keep)), keep)
        n = _most(lambda k, order=order: used < passes and good(order[:k]), len(order))
        keep[order[:n]] = False
        if n < max(1, _PROGRESS * len(order)) or n == len(order):
            break
    order = order[n:]
    size = max(1, len(order) // _CHUNKS)
    while len(order):
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            if used >= passes:
                return Found(flat.masks(keep), used, complete=False)
            if good(chunk):
                keep[chunk] = False
        order = order[keep[order]]
        if size == 1:
            break
        size = max(1, size // 2)
    return Found(flat.masks(keep), used, complete=True)


class _Flat:
    """All units of all sites in one vector."""

    def __init__(self, places: Places) -> None:
        self.names = [site.name for site in places.sites]
        self.starts = np.cumsum([0, *(site.n for site in places.sites)])

    def masks(self, keep: Mask) -> dict[str, Mask]:
        spans = zip(self.names, self.starts, self.starts[1:], strict=False)
        return {name: keep[a:b].copy() for name, a, b in spans}

    def order(self, scores: Mapping[str, Tensor], keep: Mask) -> npt.NDArray[np.int64]:
        """The units that are kept, the least important first."""
        values = np.concatenate([scores[name].double().cpu().numpy() for name in self.names])
        ranked = np.argsort(values, kind="stable")
        return ranked[keep[ranked]]


def _most(fine: Callable[[int], bool], n: int) -> int:
    """The largest k of 0 to n that is fine, if all below it are; 0 is."""
    low, high = 0, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fine(middle) else (low, middle)
    return low


__all__ = ["Found", "smallest"]
