"""Weights as matrices: outputs in rows, inputs in columns, whatever layer they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor

Kind = Literal["dense", "flipped", "conv", "transposed"]


@dataclass(frozen=True)
class Matrix:
    """How a weight is a matrix `[out, k]`: column `c * taps + t` is channel `c` at kernel tap `t`.

    kind: "dense" (`[out, in]`), "flipped" (`[in, out]`), "conv" (`[out, in / groups, ...]`) or
    "transposed" (`[in, out / groups, ...]`).

    Example:
        >>> import torch
        >>> weight = torch.arange(6.).reshape(3, 2)
        >>> Matrix("flipped").of(weight).tolist()
        [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
        >>> torch.equal(Matrix("flipped").back(Matrix("flipped").of(weight), weight.shape), weight)
        True
    """

    kind: Kind = "dense"
    groups: int = 1

    def of(self, weight: Tensor) -> Tensor:
        """The matrix `[out, k]`; a view where possible."""
        if self.kind == "transposed":
            inside = weight.shape[0] // self.groups
            split = weight.reshape(self.groups, inside, weight.shape[1], -1)
            return split.permute(0, 2, 1, 3).reshape(self.groups * weight.shape[1], -1)
        flat = weight.reshape(weight.shape[0], -1)
        return flat.t() if self.kind == "flipped" else flat

    def back(self, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A matrix of `of`'s form as a weight of a shape."""
        if self.kind == "transposed":
            inside = shape[0] // self.groups
            split = matrix.reshape(self.groups, shape[1], inside, -1)
            return split.permute(0, 2, 1, 3).reshape(shape)
        return (matrix.t() if self.kind == "flipped" else matrix).reshape(shape)

    def taps(self, shape: tuple[int, ...]) -> int:
        """Kernel positions; 1 for a fully connected layer."""
        return prod(shape[2:])
