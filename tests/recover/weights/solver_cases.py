"""Small layers, and references that share nothing with the solvers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
from torch import Tensor


def layer(out: int, k: int, seed: int = 0, rows: int = 40) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of correlated inputs; float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(k, k, generator=generator, dtype=torch.float64)
    x = torch.randn(rows, k, generator=generator, dtype=torch.float64) @ mix
    weight = torch.randn(out, k, generator=generator, dtype=torch.float64)
    return weight, x.T @ x / rows + 0.05 * torch.eye(k, dtype=torch.float64)


def loss(found: Tensor, weight: Tensor, hessian: Tensor) -> float:
    """What all solvers minimise."""
    change = found - weight
    return float((change @ hessian * change).sum())


def supports(k: int, kept: int) -> Iterator[np.ndarray]:
    """Every mask of a row that keeps `kept` of `k`."""
    for places in combinations(range(k), kept):
        mask = np.zeros(k, dtype=bool)
        mask[list(places)] = True
        yield mask


def solved(row: np.ndarray, hessian: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The best row on a support, by the normal equations of that row alone."""
    found = np.zeros_like(row)
    side = hessian[keep] @ row
    found[keep] = np.linalg.solve(hessian[np.ix_(keep, keep)], side)
    return found


def best_row(row: np.ndarray, hessian: np.ndarray, kept: int) -> float:
    """The least loss of all masks of a row."""
    changes = (solved(row, hessian, keep) - row for keep in supports(len(row), kept))
    return min(float(change @ hessian @ change) for change in changes)
