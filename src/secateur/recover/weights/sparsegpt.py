"""SparseGPT: columns in a fixed order, each passing its error on to those behind it."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.recover.weights.order import tap_major
from secateur.recover.weights.solvers import solvers
from secateur.units.pattern import Pattern

BLOCK = 128


@solvers.add("sparsegpt")
def sparsegpt(
    weight: Tensor,
    hessian: Tensor,
    pattern: Pattern,
    density: float,
    taps: int = 1,
    *,
    block: int = BLOCK,
) -> Tensor:
    """Sparse weights by one sweep over the columns; see `Solver` for the arguments.

    With U the upper Cholesky factor of H⁻¹, entries are chosen by `w² / U_jj²` when the sweep
    comes to them: the best of a block of 128 columns of all rows, of each row's block, or of each
    group of a pattern. A removed entry's error `w / U_jj` times row j of U is taken off the
    columns behind. Takes k³ + out * k² multiplications.

    Paper: Frantar and Alistarh, SparseGPT: Massive Language Models Can be Accurately Pruned in
    One-Shot, ICML 2023.

    Example:
        >>> w = torch.tensor([[0.5, 1.0]])
        >>> sparsegpt(w, torch.tensor([[2.0, 1.0], [1.0, 2.0]]), Pattern(), 0.5)
        tensor([[0.0000, 1.2500]])
    """
    order = tap_major(weight.shape[1], taps).to(weight.device)
    back = order.argsort()
    found = weight[:, order].clone()
    upper = inverse_factor(hessian[order][:, order])
    kept = seen = 0
    grouped = isinstance(pattern.group, int)
    for start, stop in _spans(weight.shape[1], weight.shape[1] // taps, pattern, block):
        part, diagonal = found[:, start:stop], upper.diagonal()[start:stop]
        scores = (part / diagonal).square()
        size = scores.numel()
        allowed = density * size if grouped else density * (seen + size) - kept
        keep = pattern.choose(scores, min(1.0, max(0.0, allowed / size)))
        if kept and not grouped and allowed < pattern.rows * (pattern.columns or 1):
            keep = torch.zeros_like(keep)  # the pattern itself would keep one of each piece
        kept, seen = kept + int(keep.sum()), seen + size
        errors = torch.zeros_like(part)
        inside = upper[start:stop, start:stop]
        for j in range(stop - start):
            gone = torch.where(keep[:, j], 0, part[:, j])
            errors[:, j] = gone / diagonal[j]
            part[:, j] -= gone
            part[:, j + 1 :] -= errors[:, j, None] * inside[j, j + 1 :]
        found[:, stop:] -= errors @ upper[start:stop, stop:]
        found[:, start:stop] = part * keep
    return found[:, back]


def _spans(columns: int, channels: int, pattern: Pattern, block: int) -> list[tuple[int, int]]:
    """Pieces of the columns that are chosen from at once; none crosses a tap where it matters."""
    if pattern.columns is None:
        return [(0, columns)]
    step = max(1, block // pattern.columns) * pattern.columns
    if isinstance(pattern.group, int):
        step = pattern.group
    elif pattern.columns == 1:
        channels = columns
    return [
        (start, min(start + step, first + channels))
        for first in range(0, columns, channels)
        for start in range(first, first + channels, step)
    ]


def inverse_factor(hessian: Tensor) -> Tensor:
    """The upper triangular U with `Uᵀ U = H⁻¹`."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


__all__ = ["BLOCK", "inverse_factor", "sparsegpt"]
