"""Exact global thresholds of scores that are seen tensor by tensor, never all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = 16
_BINS = 1 << _BITS
_CHUNK = 1 << 22

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Threshold:
    """Which scores are among the best `keep`: those above `value`, and the first `ties` equal ones.

    value: as an ordered integer (see `ordered`).
    """

    value: int
    ties: int

    def split(self, scores: Tensor, seen: int) -> tuple[Tensor, int]:
        """Which of a tensor's scores stay, and how many equal ones there have been since the start.

        seen: equal scores in the tensors before this one.
        """
        keys = ordered(scores)
        equal = keys == self.value
        count = int(equal.sum())
        keep = keys > self.value
        left = max(0, self.ties - seen)
        if count and left:
            keep |= (
                equal
                if count <= left
                else equal & (equal.flatten().cumsum(0) <= left).view_as(equal)
            )
        return keep, seen + count


def threshold(
    scores: Callable[[], Iterable[Tensor]], keep: int, reduce: Reduce | None = None
) -> Threshold:
    """The exact threshold that keeps the `keep` best of all scores, in two passes.

    scores: called twice, gives the same float32 tensors in the same order each time; NaN is not
    allowed, -inf counts as the worst. reduce: sums a histogram over processes, where each sees a
    part of the scores (the ties are then those of all parts together).

    Radix selection on the bits of the scores: the first pass counts upper halves, the second the
    lower halves of those at the border. Memory: 2 * 65,536 counts and one chunk of 4 million keys,
    whatever the number of scores.

    Example:
        >>> parts = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0])]
        >>> found = threshold(lambda: parts, 3)
        >>> seen = 0
        >>> for part in parts:
        ...     kept, seen = found.split(part, seen)
        ...     print(kept.tolist())
        [True, True]
        [True, False]
    """
    reduce = reduce or (lambda counts: counts)
    if keep <= 0:
        return Threshold(1 << 33, 0)
    upper = reduce(_histogram(scores(), lambda keys: keys >> _BITS))
    high, above = _border(upper, keep)
    if high < 0:
        return Threshold(-1, 0)  # fewer scores than `keep`: all stay
    lower = reduce(_histogram(scores(), lambda keys: keys[(keys >> _BITS) == high] & (_BINS - 1)))
    low, more = _border(lower, keep - above)
    return Threshold((high << _BITS) | low, keep - above - more)


def ordered(scores: Tensor) -> Tensor:
    """Float32 scores as integers in [0, 2³²) of the same order; -0 counts as 0.

    Example:
        >>> ordered(torch.tensor([-1.0, -0.0, 0.0, 2.0])).diff().sign().tolist()
        [1, 0, 1]
    """
    bits = (scores.detach().float() + 0.0).contiguous().view(torch.int32).long()
    return torch.where(bits < 0, -bits - 1, bits + (1 << 31)) if bits.numel() else bits


def _histogram(scores: Iterable[Tensor], bins: Callable[[Tensor], Tensor]) -> Tensor:
    counts: Tensor | None = None
    for tensor in scores:
        for part in tensor.detach().reshape(-1).split(_CHUNK):
            found = torch.bincount(bins(ordered(part)), minlength=_BINS)
            counts = found if counts is None else counts + found.to(counts.device)
    return torch.zeros(_BINS, dtype=torch.long) if counts is None else counts


def _border(counts: Tensor, keep: int) -> tuple[int, int]:
    """The bin in which the `keep`-th best lies (-1: there are fewer), and how many are above it."""
    at_least = counts.flip(0).cumsum(0)
    if int(at_least[-1]) < keep:
        return -1, int(at_least[-1])
    place = int((at_least >= keep).nonzero()[0])
    above = int(at_least[place - 1]) if place else 0
    return len(counts) - 1 - place, above
