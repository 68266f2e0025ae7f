"""The smallest set of parts that will do: estimates say what to try, real ablations decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from secateur.core.layout import Mask

_PROGRESS = 0.05  # part of what is left that a round has to remove for there to be another
_CHUNKS = 8


@dataclass(frozen=True)
class Found:
    """What stays, by name; passes: networks that were run; complete: nothing was left untried."""

    keeps: dict[str, Mask]
    passes: int
    complete: bool


def smallest(
    sizes: Mapping[str, int],
    estimate: Callable[[Mapping[str, Mask]], Mapping[str, Tensor]],
    fine: Callable[[Mapping[str, Mask]], bool],
    passes: int,
) -> Found:
    """Remove parts (units of sites, edges of weights) as long as what is left is fine.

    Those that are estimated to matter least go first, as many at once as bisection finds
    (`fine` is taken to be monotone), and the rest is estimated anew, while that gets somewhere.
    Then chunks of the parts that are left are tried, and halves of these, down to single ones, the
    least important first (as in Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing
    Input, 2002).

    sizes: how many parts there are, by the name of what they are parts of. estimate: how much each
    matters, by name `[n]`, while others are ablated. passes: calls of `fine` at most.
    """
    flat = _Flat(sizes)
    keep: Mask = np.ones(sum(sizes.values()), dtype=np.bool_)
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
    """All parts of all names in one vector."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.names = list(sizes)
        self.starts = np.cumsum([0, *sizes.values()])

    def masks(self, keep: Mask) -> dict[str, Mask]:
        spans = zip(self.names, self.starts, self.starts[1:], strict=False)
        return {name: keep[a:b].copy() for name, a, b in spans}

    def order(self, scores: Mapping[str, Tensor], keep: Mask) -> npt.NDArray[np.int64]:
        """The parts that are kept, the least important first."""
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
