"""Least squares on a fixed support: the best values of the weights that stay."""

from __future__ import annotations

import torch
from torch import Tensor

WIDEST = 2048
"""Columns up to which rows are solved exactly."""
_BYTES = 2**28  # of systems that are factorised together
_ITERATIONS = 100
_TOLERANCE = 1e-6


def fixed_support(
    wanted: Tensor, hessian: Tensor, keep: Tensor, start: Tensor | None = None
) -> Tensor:
    """Rows w with `H_SS w_S = b_S`, zero outside of their support S: `[out, k]`.

    They minimise `½ wᵀ H w - bᵀ w`; for `b = H w₀` they are the closest to w₀ in the metric of H.

    wanted: b, `[out, k]`. hessian: H, `[k, k]`, positive definite. keep: the supports, boolean
    `[out, k]`. start: where the iterations begin, for wide layers.

    Exact by Cholesky factors of every row's system up to 2048 columns (out * (k * density)³ / 3
    multiplications, 256 MB of systems at a time); wider layers by preconditioned conjugate
    gradients.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> fixed_support(torch.tensor([[3.0, 3.0]]), h, torch.tensor([[True, False]]))
        tensor([[1.5000, 0.0000]])
    """
    if keep.shape[1] > WIDEST:
        return conjugate(wanted, hessian, keep, start)
    out = torch.zeros_like(wanted)
    sizes = keep.sum(1)
    order = sizes.argsort()
    full = int((sizes == keep.shape[1]).sum())
    if full:  # dense rows share one factor
        rows = order[len(order) - full :]
        factor = torch.linalg.cholesky(hessian)
        out[rows] = torch.cholesky_solve(wanted[rows].mT, factor).mT
    rest = order[: len(order) - full]
    while len(rest):
        largest = int(sizes[rest[-1]])
        most = max(1, _BYTES // (8 * max(largest, 1) ** 2))
        rows, rest = rest[-most:], rest[:-most]
        if largest:
            _rows(out, wanted, hessian, keep, rows, largest)
    return out


def _rows(
    out: Tensor, wanted: Tensor, hessian: Tensor, keep: Tensor, rows: Tensor, largest: int
) -> None:
    """Solve some rows, whose systems are filled up to one size by unit vectors."""
    index = keep[rows].to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :largest]
    real = keep[rows].gather(1, index)
    systems = hessian[index[:, :, None], index[:, None, :]]
    systems = systems * (real[:, :, None] & real[:, None, :])
    systems.diagonal(dim1=1, dim2=2).add_((~real).to(systems.dtype))
    sides = wanted[rows].gather(1, index) * real
    factors, info = torch.linalg.cholesky_ex(systems)
    found = torch.cholesky_solve(sides[..., None], factors)[..., 0]
    if bool(info.any()):
        bad = info > 0
        found[bad] = torch.linalg.lstsq(systems[bad], sides[bad][..., None]).solution[..., 0]
    values = torch.zeros_like(out[rows]).scatter_(1, index, found * real)
    out[rows] = values


def conjugate(
    wanted: Tensor,
    hessian: Tensor,
    keep: Tensor,
    start: Tensor | None = None,
    *,
    iterations: int = _ITERATIONS,
    tolerance: float = _TOLERANCE,
) -> Tensor:
    """The same by conjugate gradients of all rows together, preconditioned by the diagonal.

    Ends when the residual of every row is below `tolerance` of its right-hand side. Each iteration
    takes one product `[out, k] x [k, k]`; memory: five matrices like the weight.

    Paper: Meng et al., ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
    Language Models, NeurIPS 2024.
    """
    diagonal = hessian.diagonal()
    x = torch.zeros_like(wanted) if start is None else start * keep
    residual = (wanted - x @ hessian) * keep
    limit = tolerance**2 * (wanted * keep).square().sum(1)
    scaled = residual / diagonal
    direction, product = scaled, (residual * scaled).sum(1)
    for _ in range(iterations):
        alive = residual.square().sum(1) > limit
        if not bool(alive.any()):
            break
        image = (direction @ hessian) * keep
        curvature = (direction * image).sum(1)
        step = torch.where(alive & (curvature > 0), product / curvature.clamp(min=1e-300), 0)
        x = x + step[:, None] * direction
        residual = residual - step[:, None] * image
        scaled = residual / diagonal
        new = (residual * scaled).sum(1)
        ratio = torch.where(product > 0, new / product.clamp(min=1e-300), 0)
        direction, product = scaled + ratio[:, None] * direction, new
    return x


__all__ = ["WIDEST", "conjugate", "fixed_support"]
