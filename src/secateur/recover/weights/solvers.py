"""What a solver is: from a layer's weights and its Hessian to sparse weights; and their names."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from secateur.core.registry import Registry
from secateur.units.pattern import Pattern


class Solver(Protocol):
    """Sparse weights close to given ones in the metric of a layer's inputs."""

    def __call__(
        self, weight: Tensor, hessian: Tensor, pattern: Pattern, density: float, taps: int = 1
    ) -> Tensor:
        """Minimise `tr((W' - W) H (W' - W)ᵀ)` over matrices W' that keep `density` of the entries.

        weight: `[out, k]`, where column `c * taps + t` is channel `c` at kernel tap `t`. hessian:
        `[k, k]`, positive definite. Returns `[out, k]`; what is removed is zero.
        """
        ...


solvers: Registry[Solver] = Registry("solver")
"""Criteria that choose and update the weights of a layer at once."""
