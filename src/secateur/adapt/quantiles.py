"""Exact quantiles of magnitudes that stream by, in two passes and little memory."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

_BITS = 16
_BINS = 1 << _BITS


class Quantiles:
    """Which magnitude a share of all numbers does not exceed.

    The first pass (`see`) counts the upper halves of the numbers' bits, which gives `rough` answers
    (to 1 %) for every share; after `aim` at one share, the second pass (`look`) counts the lower
    halves at the border, and `exact` is the smallest number that does. NaN counts as the largest.
    Memory: 2 * 65,536 counts.

    Example:
        >>> x = torch.tensor([3.0, -1.0, 0.5, -2.0])
        >>> found = Quantiles()
        >>> found.see(x); found.aim(0.5); found.look(x); found.exact
        1.0
    """

    def __init__(self) -> None:
        self.upper = torch.zeros(_BINS, dtype=torch.long)
        self.lower = torch.zeros(_BINS, dtype=torch.long)
        self.count = self.rank = self.high = 0

    def see(self, x: Tensor) -> None:
        """Count numbers in the first pass."""
        self.upper += torch.bincount(_bits(x) >> _BITS, minlength=_BINS)
        self.count += x.numel()

    def rough(self, share: float) -> float:
        """A number that at least the share does not exceed, at most 1 % above the smallest one."""
        return 0.0 if share <= 0 else _value(((self._border(share) + 1) << _BITS) - 1)

    def aim(self, share: float) -> None:
        """Choose the share of the second pass."""
        self.lower.zero_()
        self.rank = ceil(round(share * self.count, 6))
        self.high = self._border(share) if self.rank else 0

    def look(self, x: Tensor) -> None:
        """Count numbers in the second pass; they are to be the same as in the first."""
        bits = _bits(x)
        inside = bits[(bits >> _BITS) == self.high] & (_BINS - 1)
        self.lower += torch.bincount(inside, minlength=_BINS)

    @property
    def exact(self) -> float:
        """The smallest number that the share does not exceed; 0 for a share of 0."""
        if not self.rank:
            return 0.0
        before = int(self.upper[: self.high].sum())
        low = int((self.lower.cumsum(0) >= self.rank - before).nonzero()[0])
        return _value((self.high << _BITS) | low)

    def _border(self, share: float) -> int:
        rank = max(1, ceil(round(share * self.count, 6)))
        return int((self.upper.cumsum(0) >= rank).nonzero()[0])


def _bits(x: Tensor) -> Tensor:
    """Magnitudes as integers of the same order."""
    return x.detach().float().abs().contiguous().view(torch.int32).reshape(-1).long().cpu()


def _value(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
