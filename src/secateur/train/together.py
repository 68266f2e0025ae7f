"""Together: weights that are masked at once, between updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from secateur.runtime.kernels.clear import Clear, takes
from secateur.train.bits import cells
from secateur.train.held import Held
from secateur.train.peers import is_spread, local

LIMIT = 1 << 24
"""How many weights are masked at once: on other devices their mask takes a byte for each then."""


class Together:
    """Weights of one optimizer and type on one device, masked with one call or look-up for all.

    bits: their masks, which become parts of this one tensor.
    """

    def __init__(self, items: Sequence[Held]) -> None:
        lengths = [len(item.packed) for item in items]
        self.bits = torch.cat([item.packed for item in items])
        for item, part in zip(items, self.bits.split(lengths), strict=True):
            item.packed = part
        self._weights: list[Tensor] = [item.parameter for item in items]
        self._spread = any(map(is_spread, self._weights))
        self._sizes = [item.site.n for item in items]
        self._places: list[tuple[int, torch.dtype]] = []
        self._native: Clear | None = None

    def apply(self) -> None:
        """Set what is removed to zero."""
        weights = [local(weight) for weight in self._weights] if self._spread else self._weights
        places = [(weight.data_ptr(), weight.dtype) for weight in weights]
        if places != self._places:
            native = all(map(takes, weights)) and len({weight.dtype for weight in weights}) == 1
            self._native = Clear(weights, self.bits) if native else None
            self._places = places
        if self._native is not None:
            self._native()
            return
        parts = cells(self.bits).split([size + -size % 8 for size in self._sizes])
        masks = [
            part[:size].view(weight.shape)
            for part, size, weight in zip(parts, self._sizes, weights, strict=True)
        ]
        with torch.no_grad():
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
        found.setdefault(optimizer, []).extend(Together(part) for part in _parts(items))
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
