"""Ridge least squares for a layer whose weights are partly zero and stay so."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.recover.solve import LAMBDAS, Solution, Sums, descend, ridged
from secateur.recover.weights.fixed import fixed_support
from secateur.recover.weights.solvers import Solver
from secateur.units.pattern import Pattern

DAMP = 1e-2
"""Ridge of the solvers that choose, in units of the mean variance of an input, as SparseGPT's."""


def solve_masked(
    fit: Sums, held: Sums, weight: Tensor, keep: Tensor, *, intercept: bool
) -> Solution | None:
    """As `solve`, with zeros where `keep` is false.

    weight, keep: `[groups, out / groups, k]`; the weight is zero where it is not kept. The
    ridge strength is chosen on held-out rows, as there.
    """
    used = _usable(fit, held, intercept)
    if used is None or used.xx is None:
        return None
    before = held.error(torch.zeros_like(used.xr), None)
    tried: dict[float, Solution] = {}

    def at(strength: float) -> float:
        """The held-out error of one ridge strength."""
        stiff = ridged(used, strength)
        wide = weight.to(stiff.dtype)
        wanted = wide @ stiff + used.xr.mT
        parts = [fixed_support(*one) for one in zip(wanted, stiff, keep, wide, strict=True)]
        change = torch.stack(parts) - wide  # of each group
        tried[strength] = _solution(fit, held, change, before, strength, intercept)
        return tried[strength].after

    descend(at, LAMBDAS)
    best = min(tried.values(), key=lambda found: found.after)
    return best if best.after < before else None


def solve_sparse(
    fit: Sums,
    held: Sums,
    weight: Tensor,
    solver: Solver,
    pattern: Pattern,
    density: float,
    taps: int,
    *,
    intercept: bool,
) -> Solution:
    """The change that prunes a layer by a solver.

    The solver starts from the dense solution for the rows at hand: `W + R (H + λ)⁻¹`, so that the
    targets are the dense network's outputs. Where zeros alone are closer on held-out rows, the
    solver's mask stays and its update does not. Without usable rows, magnitudes decide.
    """
    wide = weight.double()
    used = _usable(fit, held, intercept)
    zeros = torch.zeros_like(wide)
    if used is None or used.xx is None:
        parts = [w * pattern.choose(w.abs(), density, taps) for w in wide]
        change = (torch.stack(parts) - wide).mT
        return Solution(change, None, float("nan"), float("nan"), 0.0)
    stiff = ridged(used, DAMP)
    factor = torch.linalg.cholesky(stiff)
    dense = wide + torch.cholesky_solve(used.xr, factor).mT
    sparse = torch.stack(
        [solver(w, h, pattern, density, taps) for w, h in zip(dense, stiff, strict=True)]
    )
    before = held.error(zeros.mT, None)
    solved = _solution(fit, held, sparse - wide, before, DAMP, intercept)
    plain = _solution(fit, held, wide * (sparse != 0) - wide, before, DAMP, intercept)
    return solved if solved.after <= plain.after else plain


def _usable(fit: Sums, held: Sums, intercept: bool) -> Sums | None:
    """The moments to solve from; None where there are no rows, or none that say anything."""
    if not fit.count or fit.xx is None or held.xx is None:
        return None
    used = fit.centred() if intercept else fit
    assert used.xx is not None
    finite = bool(torch.isfinite(used.xx).all() & torch.isfinite(used.xr).all())
    return used if finite and float(used.xx.diagonal(dim1=1, dim2=2).mean()) > 0 else None


def _solution(
    fit: Sums, held: Sums, change: Tensor, before: float, strength: float, intercept: bool
) -> Solution:
    """A change `[groups, out, k]` with the intercept that goes with it, and what it does."""
    turned = change.mT
    shift = (fit.r - (fit.x[:, None] @ turned)[:, 0]) / fit.count if intercept else None
    return Solution(turned, shift, before, held.error(turned, shift), strength)


__all__ = ["DAMP", "solve_masked", "solve_sparse"]
