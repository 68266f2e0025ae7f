"""Ridge least squares from streamed sums: the rows themselves are never kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LAMBDAS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""Ridge strengths that are tried, in units of the mean variance of an input."""
_WIDE = 256  # columns
_ROWS = 2048  # a block whose products lose nothing that matters in single precision


class Sums:
    """Second moments of inputs `[groups, n, k]` and residuals `[groups, n, out]`, in float64.

    Memory: 8 bytes times groups * k * (k + out), and as much again of one strip of columns.
    """

    def __init__(self) -> None:
        self.count = 0
        self._xx: Tensor | None = None
        self._halved = False

    @property
    def xx(self) -> Tensor | None:
        """`xᵀ x`, or None before the first rows."""
        if self._xx is not None and self._halved:
            k = self._xx.shape[2]
            for start in range(0, k, _WIDE):
                strip = slice(start, start + _WIDE)
                self._xx[:, start + _WIDE :, strip] = self._xx[:, strip, start + _WIDE :].mT
            self._halved = False
        return self._xx

    @xx.setter
    def xx(self, value: Tensor) -> None:
        self._xx, self._halved = value, False

    def add(self, x: Tensor, r: Tensor) -> None:
        """Add rows; of many columns only the upper half of `xᵀ x` is added to."""
        wide = torch.float64
        groups, _, k = x.shape
        if self._xx is None:
            self._xx = x.new_zeros(groups, k, k, dtype=wide)
            self.xr = x.new_zeros(groups, k, r.shape[2], dtype=wide)
            self.rr = x.new_zeros(groups, dtype=wide)
            self.x, self.r = self.xr.new_zeros(groups, k), self.xr.new_zeros(groups, r.shape[2])
        if k < 2 * _WIDE:
            _add_product(self._xx, x, x)
        else:
            for start in range(0, k, _WIDE):
                strip = slice(start, start + _WIDE)
                _add_product(self._xx[:, strip, start:], x[:, :, strip], x[:, :, start:])
            self._halved = True
        _add_product(self.xr, x, r)
        self.rr += r.to(wide).square().sum((1, 2))
        self.x += x.sum(1, dtype=wide)
        self.r += r.sum(1, dtype=wide)
        self.count += x.shape[1]

    def centred(self) -> Sums:
        """The same about the means."""
        out = Sums()
        assert self.xx is not None
        n = max(self.count, 1)
        out.count = self.count
        out.x, out.r = self.x, self.r
        out.xx = torch.baddbmm(self.xx, self.x[:, :, None], self.x[:, None, :], alpha=-1 / n)
        out.xr = self.xr - self.x[:, :, None] * self.r[:, None, :] / n
        out.rr = self.rr - self.r.square().sum(1) / n
        return out

    def error(self, change: Tensor, shift: Tensor | None) -> float:
        """Mean squared residual after adding `change` `[groups, k, out]` and `shift` `[g, out]`."""
        assert self.xx is not None
        total = self.rr.sum() - 2 * (change * self.xr).sum() + (change * (self.xx @ change)).sum()
        if shift is not None:
            total += self.count * shift.square().sum() - 2 * (shift * self.r).sum()
            total += 2 * (shift[:, None] * (self.x[:, None] @ change)).sum()
        return float(total) / max(1, self.count)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add `aᵀ b`; of many single-precision columns by blocks of rows in single precision."""
    if a.dtype != torch.float32 or a.shape[2] < _WIDE:
        total += a.double().mT @ b.double()
        return
    for x, y in zip(a.split(_ROWS, 1), b.split(_ROWS, 1), strict=True):
        total += x.mT @ y.float()


@dataclass(frozen=True)
class Solution:
    """What to add to a matrix (transposed) and to a bias, and what it did to held-out rows.

    before, after: mean squared difference from the target on held-out rows.
    """

    change: Tensor
    shift: Tensor | None
    before: float
    after: float
    ridge: float


def solve(fit: Sums, held: Sums, *, intercept: bool) -> Solution | None:
    """The change of a layer that brings its outputs closest to their targets.

    Minimises |r - x D|² + λ |D|² over the change D from the present weights, so that directions
    without data stay as they are; λ is chosen on held-out rows, from the middle of `LAMBDAS` to
    where it gets no better, and None is returned where no λ brings those closer. Takes one Cholesky
    factorisation of `[k, k]` for each λ.

    Example:
        >>> x = torch.randn(1, 64, 3); wanted = torch.tensor([[[1.0], [2.0], [0.0]]])
        >>> sums = Sums(); sums.add(x, x @ wanted)
        >>> found = solve(sums, sums, intercept=False)
        >>> (found.change - wanted).abs().max() < 1e-2
        tensor(True)
    """
    if not fit.count or fit.xx is None or held.xx is None:
        return None
    used = fit.centred() if intercept else fit
    assert used.xx is not None
    if not bool(torch.isfinite(used.xx).all() & torch.isfinite(used.xr).all()):
        return None
    before = held.error(torch.zeros_like(used.xr), None)
    tried: dict[float, Solution | None] = {}

    def at(strength: float) -> float:
        """The held-out error of one ridge strength; infinite where it cannot be solved."""
        if strength not in tried:
            factor, info = torch.linalg.cholesky_ex(ridged(used, strength))
            tried[strength] = None
            if not bool(info.any()):
                change = torch.cholesky_solve(used.xr, factor)
                shift = None
                if intercept:
                    shift = (fit.r - (fit.x[:, None] @ change)[:, 0]) / fit.count
                after = held.error(change, shift)
                tried[strength] = Solution(change, shift, before, after, strength)
        found = tried[strength]
        return float("inf") if found is None else found.after

    descend(at, LAMBDAS if float(used.xx.diagonal(dim1=1, dim2=2).mean()) > 0 else (1.0,))
    made = [found for found in tried.values() if found is not None and found.after < before]
    return min(made, key=lambda found: found.after, default=None)


def ridged(sums: Sums, strength: float) -> Tensor:
    """The second moments with a ridge, in units of their mean diagonal."""
    assert sums.xx is not None
    out = sums.xx.clone()
    diagonal = out.diagonal(dim1=1, dim2=2)
    diagonal += strength * diagonal.mean() + 1e-30
    return out


def descend(value: Callable[[float], float], places: Sequence[float]) -> None:
    """Look from the middle to one side, or the other, as long as it gets better."""
    middle = len(places) // 2
    for side in (places[middle + 1 :], places[:middle][::-1]):
        start = last = value(places[middle])
        for place in side:
            found = value(place)
            if found > last:
                break
            last = found
        if last < start:
            break
