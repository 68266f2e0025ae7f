"""Where to look next: a bracketing search over the share of a cost that stays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CLOSE = 1.04
"""Shares whose quotient is smaller than this are not worth another trial."""


@dataclass
class Bracket:
    """The shares that are known to do, and those that are known not to.

    Quality falls with the share and latency too, so that what does is on one side. smallest: it is
    the upper side (quality), and its smallest share is looked for; otherwise it is the lower side
    (latency), and its largest share is. What contradicts that is passed over.

    Example:
        >>> bracket = Bracket(smallest=True)
        >>> while (share := bracket.next()) is not None:
        ...     bracket.add(share, share, margin=share - 0.3)
        >>> 0.3 <= bracket.best < 0.315
        True
    """

    smallest: bool
    low: float = 0.03
    high: float = 0.97
    start: float = 0.5
    good: dict[float, float] = field(default_factory=dict)
    bad: dict[float, float] = field(default_factory=dict)
    sides: list[bool] = field(default_factory=list)
    floor: float = 0.0

    def add(self, share: float, left: float, margin: float) -> None:
        """What was found at a share of which `left` was used: inside by `margin`, or outside.

        Between `left` and `share` any share gives the same network.
        """
        fine = margin >= 0
        edge = left if fine == self.smallest else share
        (self.good if fine else self.bad)[max(edge, 1e-6)] = margin
        self.sides.append(fine)

    def withdraw(self, share: float, left: float, margin: float) -> None:
        """What was found to do does not, on a second look."""
        for edge in (share, left):
            self.good.pop(max(edge, 1e-6), None)
        self.add(share, left, margin)

    def unreachable(self, share: float) -> None:
        """No network has a share that small."""
        self.floor = max(self.floor, share)

    @property
    def best(self) -> float:
        """The best share that does; NaN if there is none."""
        if not self.good:
            return math.nan
        return min(self.good) if self.smallest else max(self.good)

    def next(self) -> float | None:
        """The next share to try, or None if it is not worth it."""
        low, high = max(self.low, self.floor * 1.0001), self.high
        if low >= high:
            return None
        if not self.good and not self.bad:
            start = min(max(self.start, low), high)
            return start if start > self.floor * CLOSE else math.sqrt(low * high)
        return self._upwards(low, high) if self.smallest else self._downwards(low, high)

    def _upwards(self, low: float, high: float) -> float | None:
        """The smallest share that does: below everything good, above everything bad."""
        if not self.good:
            worst = max(self.bad)
            if worst >= high / 1.001:
                return None
            return high if high / worst < CLOSE else min(high, self._aim(worst, 1.0))
        top = min(self.good)
        below = [share for share in self.bad if share < top]
        if not below:
            return self._open(low, top)
        return self._between(max(below), top)

    def _downwards(self, low: float, high: float) -> float | None:
        """The largest share that does: above everything good, below everything bad."""
        if not self.good:
            return self._open(low, min(self.bad))
        top = max(self.good)
        above = [share for share in self.bad if share > top]
        if above:
            return self._between(top, min(above))
        return None if top >= high / 1.001 else high if high / top < 1.3 else math.sqrt(top * high)

    def _open(self, low: float, top: float) -> float | None:
        """Below `top`, where nothing is known yet: half, as far down as there is."""
        if top / low < CLOSE:
            return None
        if self.floor and top / low < 2:
            return math.sqrt(low * top)
        return max(low, top / 2)

    def _between(self, low: float, high: float) -> float | None:
        """Between a pair of different outcomes: where the margin should be zero, or the middle."""
        low = max(low, self.floor)
        if high / low < CLOSE:
            return None
        return self._aim(low, high)

    def _aim(self, low: float, high: float) -> float:
        """Where the margin should be zero; the middle where that is unknown, or did not help.

        The original, a share of 1, loses nothing: its margin is 1.
        """
        a, b = math.log(low), math.log(high)
        part = 0.5
        known = {1.0: 1.0, **self.good, **self.bad}
        stuck = len(self.sides) > 2 and self.sides[-1] == self.sides[-2] == self.sides[-3]
        if low in known and high in known and not stuck:
            first, second = _strain(known[low]), _strain(known[high])
            if first != second:
                part = min(max(first / (first - second), 0.15), 0.85)
        return math.exp(a + part * (b - a))


def _strain(margin: float) -> float:
    """The logarithm of how much of what is allowed is used; 0 where all of it is.

    Losses grow about exponentially as the share falls, and latency as a power of it, so that this
    is close to a line over the logarithm of the share.
    """
    return math.log(max(1 - margin, 0.1))
