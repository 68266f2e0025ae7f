"""DSnoT: a mask made better by exchanging weights, with neither training nor an update."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 50
ENOUGH = 0.1


def dsnot(
    weight: Tensor,
    keep: Tensor,
    mean: Tensor,
    variance: Tensor,
    score: Tensor,
    *,
    rounds: int = ROUNDS,
    enough: float = ENOUGH,
) -> Tensor:
    """Exchange kept and removed weights of each output while its mean error falls; `[out, k]`.

    weight, keep, score (Wanda's): `[out, k]`; mean, variance of the columns: `[1 or out, k]`. In a
    round, an output whose mean error is e takes back the removed weight with the largest
    sign(e) w m / v, and gives the kept weight of least score that moves e the other way. It stops
    at |e| below `enough`, or when an exchange would not lower |e|, which the paper leaves open.
    Counts of rows stay; patterns within a row do not.

    Paper: Zhang et al., Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs,
    ICLR 2024.

    Example:
        >>> w, m = torch.tensor([[1.0, 0.9, 3.0]]), torch.tensor([[1.0, -1.0, 0.0]])
        >>> keep = torch.tensor([[True, False, True]])
        >>> dsnot(w, keep, -m, m.square() + 1, w)
        tensor([[ True, False,  True]])
    """
    given = weight * mean.to(weight.dtype)
    spread = variance.to(weight.dtype).clamp(min=1e-12)
    keep = keep.clone()
    error = (given * ~keep).sum(1)
    rows = torch.arange(len(weight), device=weight.device)
    alive = error.abs() > enough
    infinite = torch.full_like(weight, float("inf"))
    for _ in range(rounds):
        if not bool(alive.any()):
            break
        sign = error.sign()[:, None]
        gain = torch.where(keep, -infinite, sign * given / spread)
        back = gain.argmax(1)
        left = error - given[rows, back]
        # giving a kept weight adds what it gave to the error; it must go the other way than `left`
        other = keep & (left.sign()[:, None] * given < 0)
        out = torch.where(other, score.to(weight.dtype), infinite).argmin(1)
        after = left + given[rows, out]
        fine = alive & (gain[rows, back] > 0) & other[rows, out] & (after.abs() < error.abs())
        chosen = rows[fine]
        keep[chosen, back[fine]] = True
        keep[chosen, out[fine]] = False
        error = torch.where(fine, after, error)
        alive = fine & (error.abs() > enough)
    return keep
