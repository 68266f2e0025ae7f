"""ALPS: a mask and weights together by ADMM, then the best weights for that mask."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.recover.weights.fixed import fixed_support
from secateur.recover.weights.solvers import solvers
from secateur.units.pattern import Pattern

ROUNDS = 300
_EVERY = 3  # rounds between looks at the support
_STILL = 3  # looks without a change that end it


@solvers.add("alps")
def alps(
    weight: Tensor,
    hessian: Tensor,
    pattern: Pattern,
    density: float,
    taps: int = 1,
    *,
    rounds: int = ROUNDS,
) -> Tensor:
    """Sparse weights by the alternating direction method; see `Solver` for the arguments.

    For inputs scaled to a unit diagonal of H: `B = (H + ρ)⁻¹ (H W - V + ρ D)`, `D` the best entries
    of `B + V / ρ` under the pattern, `V += ρ (B - D)`; ρ grows the faster the more the support
    still changes. Then the weights of the last support are solved exactly (or, of more than 2048
    columns, by conjugate gradients). Takes one eigenvalue decomposition of H and 2 out * k²
    multiplications a round, at most 300 rounds.

    Paper: Meng et al., ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
    Language Models, NeurIPS 2024.

    Example:
        >>> w = torch.tensor([[1.0, 0.5]])
        >>> alps(w, torch.tensor([[2.0, 1.0], [1.0, 2.0]]), Pattern(), 0.5)
        tensor([[1.2500, 0.0000]])
    """
    scale = hessian.diagonal().sqrt()
    h = hessian / scale / scale[:, None]
    dense = weight * scale
    wanted = dense @ h
    values, vectors = torch.linalg.eigh(h)
    rho = 0.1
    sparse, dual = dense.clone(), torch.zeros_like(dense)
    seen: Tensor | None = None
    still = 0
    keep = torch.ones_like(dense, dtype=torch.bool)
    for number in range(rounds):
        free = (wanted - dual + rho * sparse) @ vectors / (values + rho) @ vectors.mT
        aim = free + dual / rho
        keep = pattern.choose(aim.square(), density, taps)
        sparse = aim * keep
        dual = dual + rho * (free - sparse)
        if number % _EVERY:
            continue
        changed = keep.numel() if seen is None else int((keep ^ seen).sum())
        still = 0 if changed else still + 1
        if still == _STILL:
            break
        share = changed / max(1, int(keep.sum()))
        rho *= 1.3 if share >= 0.1 else 1.2 if share >= 0.005 else 1.1
        seen = keep
    return fixed_support(wanted, h, keep, sparse) / scale


__all__ = ["ROUNDS", "alps"]
