"""Is this still the data that we knew? A bet against it, which seldom wins where it is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from math import exp, log
from random import Random

import torch
from torch import Tensor

_SLOPES = (-1.0, 0.0, 1.0)
_JUMPS = 0.001  # the part of the capital that changes its bet after every sample
_SHRINK = 0.1  # of the covariance towards independent features


class Normal:
    """How unusual vectors are, by their Mahalanobis distance from those that it was made of.

    Features that never vary count by how far they are from their one value. Memory: `k²` floats.

    Example:
        >>> usual = Normal(torch.randn(500, 3))
        >>> usual.scores(torch.tensor([[0.0, 0, 0], [9, 9, 9]])).argmax()
        tensor(1)
    """

    def __init__(self, x: Tensor) -> None:
        x = x.double()
        self.mean = x.mean(0)
        spread = x.std(0, correction=0)
        floor = 1e-3 * spread.mean().clamp_min(1e-6)
        self.deviation = spread.clamp_min(float(floor))
        z = self.standard(x)
        covariance = (1 - _SHRINK) * (z.mT @ z) / len(z) + _SHRINK * torch.eye(z.shape[1]).to(z)
        self.factor = torch.linalg.cholesky(covariance)

    def standard(self, x: Tensor) -> Tensor:
        """Vectors in deviations from the mean, `[n, k]`."""
        return (x.double() - self.mean) / self.deviation

    def scores(self, x: Tensor) -> Tensor:
        """Squared distances, `[n]`; infinite for what is not finite."""
        z = torch.linalg.solve_triangular(self.factor, self.standard(x).mT, upper=False)
        return z.square().sum(0).nan_to_num(float("inf"))


class Bet:
    """Capital that grows when samples stop being like those before.

    Each score is ranked among all scores seen before, those of calibration included. As long as
    samples are exchangeable, these ranks are independent and uniform, and no bet on them can be
    expected to win: the capital ever exceeds `1 / alarm` with probability at most `alarm`,
    however long it goes on (Ville's inequality). The bets are on ranks that are mostly high, mostly
    low, or neither, and change now and then.

    Paper: Vovk et al., Retrain or not retrain: conformal test martingales for change-point
    detection, COPA 2021 (the simple jumper).

    Example:
        >>> bet = Bet([float(k) for k in range(100)])
        >>> for k in range(30):
        ...     _ = bet.see(1000.0 + k)
        >>> bet.capital > 1000
        True
    """

    def __init__(self, scores: list[float], seed: int = 0) -> None:
        self.ranked = sorted(scores)
        self.random = Random(seed)
        self.parts = [1 / 3] * len(_SLOPES)  # of the capital, on each slope
        self.logarithm = 0.0

    @property
    def capital(self) -> float:
        """What the bets made of 1."""
        return exp(min(self.logarithm, 700.0))

    def see(self, score: float) -> float:
        """Bet on one more score; returns its rank from 0 (the most unusual) to 1."""
        below, upto = bisect_left(self.ranked, score), bisect_right(self.ranked, score)
        ties = upto - below + 1
        rank = len(self.ranked) - upto + self.random.random() * ties
        rank /= len(self.ranked) + 1
        insort(self.ranked, score)
        moved = [(1 - _JUMPS) * part + _JUMPS / len(_SLOPES) for part in self.parts]
        won = [
            part * (1 + slope * (rank - 0.5)) for part, slope in zip(moved, _SLOPES, strict=True)
        ]
        total = sum(won)
        self.parts = [part / total for part in won]
        self.logarithm += log(total)
        return rank
