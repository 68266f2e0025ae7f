"""ExactOBS: the weights of every output removed one by one, each time the one that costs least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core.errors import RecipeError
from secateur.recover.weights.fixed import fixed_support
from secateur.recover.weights.solvers import solvers
from secateur.units.pattern import Pattern

_BYTES = 2**28  # of inverses that are held at a time


@solvers.add("obc", "exactobs")
def obc(weight: Tensor, hessian: Tensor, pattern: Pattern, density: float, taps: int = 1) -> Tensor:
    """Sparse weights by exact greedy elimination; see `Solver` for the arguments.

    In every row, p = argmin w_p² / [H⁻¹]_pp goes, and the rest is moved to the optimum. The rows'
    losses are merged, so that the cheapest of all rows' next removals is always taken, unless the
    pattern wants equal counts. Takes about out * k³ / 2 multiplications, in float64, on parts of
    the rows whose inverses fit in 256 MB; it is the most exact of the solvers, and the slowest.

    Paper: Frantar, Singh and Alistarh, Optimal Brain Compression, NeurIPS 2022.

    Example:
        >>> w = torch.tensor([[1.0, 0.5]])
        >>> obc(w, torch.tensor([[2.0, 1.0], [1.0, 2.0]]), Pattern(), 0.5)
        tensor([[1.2500, 0.0000]])

    Raises:
        RecipeError: The pattern has blocks.
    """
    if (pattern.rows, pattern.columns) != (1, 1):
        raise RecipeError(
            "'obc' removes single weights, not blocks", hint="use 'sparsegpt' or 'alps' for blocks"
        )
    out, k = weight.shape
    wide, h = weight.double(), hessian.double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    quota = _quota(k, taps, pattern, density)
    whole = pattern.group is None
    most = k if whole else int(quota.limits.sum())
    step = max(1, _BYTES // (8 * k * k))
    parts = [_trace(rows, inverse, quota, most) for rows in wide.split(step)]
    order = torch.cat([part[0] for part in parts])
    if whole:
        losses = torch.cat([part[1] for part in parts])
        counts = _merged(losses, out * k - max(1, int(out * k * density + 1e-9)))
    else:
        counts = torch.full((out,), most, device=weight.device)
    gone = torch.arange(most, device=weight.device)[None] < counts[:, None]
    keep = torch.ones(out, k, dtype=torch.bool, device=weight.device).scatter_(1, order, ~gone)
    return fixed_support(wide @ h, h, keep).to(weight.dtype)


@dataclass(frozen=True)
class _Quota:
    """groups: the group of every column. limits: how many of each group of a row may go."""

    groups: Tensor
    limits: Tensor


def _quota(k: int, taps: int, pattern: Pattern, density: float) -> _Quota:
    if not isinstance(pattern.group, int):
        least = k if pattern.group is None else k - max(1, int(k * density + 1e-9))
        return _Quota(torch.zeros(k, dtype=torch.long), torch.tensor([least]))
    column = torch.arange(k)
    many = -(-(k // taps) // pattern.group)
    groups = column % taps * many + column // taps // pattern.group
    sizes = torch.bincount(groups, minlength=taps * many)
    if pattern.keep is not None:
        return _Quota(groups, sizes - (sizes * pattern.keep + pattern.group - 1) // pattern.group)
    return _Quota(groups, sizes - (sizes * density + 1e-9).floor().clamp(min=1).long())


def _trace(weight: Tensor, inverse: Tensor, quota: _Quota, steps: int) -> tuple[Tensor, Tensor]:
    """In which order the columns of some rows go, and what each costs: `[rows, steps]` both.

    Removed columns are dropped from the inverses once they are an eighth.
    """
    rows, k = weight.shape
    device = weight.device
    every = torch.arange(rows, device=device)
    x, inv = weight.clone(), inverse.expand(rows, k, k).clone()
    columns = torch.arange(k, device=device).expand(rows, k)
    gone = torch.zeros(rows, k, dtype=torch.bool, device=device)
    groups = quota.groups.to(device)
    left = quota.limits.to(device).expand(rows, -1).clone()
    order = torch.zeros(rows, steps, dtype=torch.long, device=device)
    losses = torch.zeros(rows, steps, dtype=weight.dtype, device=device)
    dropped = 0
    for step in range(steps):
        diagonal = inv.diagonal(dim1=1, dim2=2)
        barred = gone | (left.gather(1, groups[columns]) <= 0)
        cost = (x.square() / diagonal.clamp(min=1e-300)).masked_fill(barred, float("inf"))
        losses[:, step], place = cost.min(1)
        chosen = columns[every, place]
        order[:, step] = chosen
        left.scatter_add_(1, groups[chosen][:, None], torch.full_like(left[:, :1], -1))
        line = inv[every, place]
        pivot = line[every, place][:, None]
        x -= x[every, place][:, None] / pivot * line
        inv.baddbmm_(line[:, :, None], (line / pivot)[:, None, :], alpha=-1)
        gone[every, place] = True
        width = x.shape[1]
        if step + 1 - dropped >= max(8, width // 8) and step + 1 < steps:
            stay = gone.to(torch.uint8).argsort(dim=1, stable=True)[
                :, : width - (step + 1 - dropped)
            ]
            x, columns, gone = x.gather(1, stay), columns.gather(1, stay), gone.gather(1, stay)
            inv = inv[every[:, None, None], stay[:, :, None], stay[:, None, :]]
            dropped = step + 1
    return order, losses


def _merged(losses: Tensor, remove: int) -> Tensor:
    """How many go in every row when the cheapest next removal of all rows is always taken.

    A removal can be taken only after those before it: what counts is the largest cost so far.
    """
    keys = losses.cummax(1).values
    first = keys.reshape(-1).argsort(stable=True)[:remove]
    return torch.bincount(first // losses.shape[1], minlength=len(losses))


__all__ = ["obc"]
