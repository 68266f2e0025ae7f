"""Sites: the one interface between a model's structure and everything that decides about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.core.layout import Layout

Role = Literal["out", "in", "scale", "shift", "buffer"]


@dataclass(frozen=True)
class Slice:
    """Where a site's indices lie in one dimension of one parameter or buffer.

    role: "out" (a weight's producing dimension, or its bias), "in" (the dimension that is
    contracted: a consumer), "scale"/"shift" (a normalisation's weight and bias), "buffer".
    """

    tensor: str
    dim: int
    layout: Layout
    role: Role


@dataclass(frozen=True)
class Site:
    """One place with `n` removable indices.

    name: unique and stable, read off the tensors ("layer1.0.conv1"). unit: "channel", "head" or
    "layer". what: a word for people ("filters", "hidden units", "heads"). statistical: removal
    changes the function by design, because a normalisation runs over the axis. For a layer the
    one index is the block itself, `module` its name, and there are no slices.
    """

    name: str
    unit: str
    n: int
    slices: tuple[Slice, ...] = ()
    what: str = "channels"
    statistical: bool = False
    multiple: int = 1
    floor: int = 1
    module: str | None = None

    def pool(
        self,
        tensors: Mapping[str, Tensor],
        element: Callable[[str, Tensor], Tensor],
        roles: frozenset[str] | set[str],
    ) -> Tensor:
        """Sum `element(name, tensor)` over everything that an index owns; shape `[n]`, float32+.

        Only slices whose role is in `roles` count. Works tensor by tensor: never holds more than
        one tensor's element scores.
        """
        total: Tensor | None = None
        for part in self.slices:
            if part.role not in roles or part.tensor not in tensors:
                continue
            value = element(part.tensor, tensors[part.tensor])
            if value.dtype != torch.float64:
                value = value.float()  # half precision overflows when summed
            others = [d for d in range(value.dim()) if d != part.dim]
            vector = value.sum(others) if others else value
            pooled = pool_vector(vector, part.layout, self.name, self.n)
            total = pooled if total is None else total + pooled.to(total.device)
        return torch.zeros(self.n) if total is None else total


def pool_vector(vector: Tensor, layout: Layout, leaf: str, n: int) -> Tensor:
    """Sum a per-position vector (shape `[layout.size]`) onto the indices of one leaf."""
    where = torch.from_numpy(layout.coordinate(leaf)).to(vector.device)
    owned = where >= 0
    dtype = vector.dtype if vector.dtype == torch.float64 else torch.float32
    pooled = torch.zeros(n, dtype=dtype, device=vector.device)
    return pooled.index_add_(0, where[owned], vector[owned].to(dtype))


@dataclass(frozen=True)
class Tie:
    """Sites whose kept counts move together: site `s` keeps `ratios[s] * level` indices.

    A site tied to nothing has ratio 1. `levels` are the base counts that the model's own code
    allows, ascending; the last one keeps everything.
    """

    ratios: Mapping[str, int]
    levels: tuple[int, ...]
    why: str = ""
