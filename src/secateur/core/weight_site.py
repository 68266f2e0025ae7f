"""Weight sites: tensors whose single entries, patterns of entries or blocks can be zeroed."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from secateur.core.matrix import Matrix


@dataclass(frozen=True)
class WeightSite:
    """One weight of which entries can be zeroed; the counterpart of `Site` for masks.

    name: the parameter's (first) name. form: how it is a matrix `[out, k]`.
    """

    name: str
    shape: tuple[int, ...]
    form: Matrix = field(default_factory=Matrix)

    @property
    def n(self) -> int:
        """How many entries there are."""
        return prod(self.shape)

    @property
    def taps(self) -> int:
        """Kernel positions; 1 for a fully connected layer."""
        return self.form.taps(self.shape)

    def matrix(self, tensor: Tensor) -> Tensor:
        """The parameter, its gradient or its mask as a matrix `[out, k]`."""
        return self.form.of(tensor)

    def tensor(self, matrix: Tensor) -> Tensor:
        """A matrix `[out, k]` in the parameter's own shape."""
        return self.form.back(matrix, self.shape)
