"""Together: weights that are masked at once, between updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.runtime.kernels.clear import Clear, takes
from secateur.train.bits import cells
from secateur.train.held import Held
from secateur.train.peers import local

LIMIT = 1 << 24
"""How many weights are masked at once: on other devices their mask takes a byte for each then."""


@dataclass(frozen=True)
class Together:
    """Weights of one optimizer and type on one device, masked with one call or look-up for all."""

    weights: Sequence[Tensor]
    bits: Tensor

    @classmethod
    def of(cls, items: Sequence[Held]) -> Together:
        """Their masks become parts of one tensor."""
        lengths = [len(item.packed) for item in items]
        bits = torch.cat([item.packed for item in items])
        for item, part in zip(items, bits.split(lengths), strict=True):
            item.packed = part
        return cls([item.parameter for item in items], bits)

    @cached_property
    def sizes(self) -> list[int]:
        """How many entries each has here."""
        return [local(weight).numel() for weight in self.weights]

    @cached_property
    def native(self) -> Clear:
        """The same by a kernel, without bytes; for weights that it takes."""
        return Clear(self.sizes, self.bits)

    def apply(self) -> None:
        """Set what is removed to zero."""
        weights = [local(weight) for weight in self.weights]
        if all(takes(weight) for weight in weights) and len({w.dtype for w in weights}) == 1:
            self.native(weights)
            return
        parts = cells(self.bits).split([size + -size % 8 for size in self.sizes])
        masks = [
            part[:size].view(weight.shape)
            for part, size, weight in zip(parts, self.sizes, weights, strict=True)
        ]
        torch._foreach_mul_(weights, masks)


def gathered(held: Iterable[Held]) -> dict[int, list[Together]]:
    """All weights, by the id of their optimizer; those that have no entry here are left out."""
    found: dict[int, list[Together]] = {}
    places: dict[tuple[int, torch.device, torch.dtype], list[Held]] = {}
    for item in held:
        if item.packed.numel():
            place = id(item.optimizer), item.packed.device, item.parameter.dtype
            places.setdefault(place, []).append(item)
    for (optimizer, *_), items in places.items():
        found.setdefault(optimizer, []).extend(Together.of(part) for part in _parts(items))
    return found


def _parts(items: Sequence[Held]) -> Iterator[list[Held]]:
    """In order, as many at a time as stay below the limit; at least one."""
    part: list[Held] = []
    size = 0
    for item in items:
        if part and size + item.site.n > LIMIT:
            yield part
            part, size = [], 0
        part.append(item)
        size += item.site.n
    if part:
        yield part
