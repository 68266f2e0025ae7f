"""Memory of one run: buffers that are used again as soon as nothing needs what is in them."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

_ALIGN = 64


class Buffer:
    """Float32 memory, zero when it is made, aligned to a cache line.

    key: buffers are used again for the same key only, so that borders stay zero. names: the values
    that are in it now.
    """

    def __init__(self, floats: int, key: Hashable) -> None:
        raw = torch.zeros(floats + _ALIGN // 4)
        skip = -raw.data_ptr() % _ALIGN // 4
        self.tensor = raw[skip : skip + floats]
        self.address = self.tensor.data_ptr()
        self.storage = raw.untyped_storage().data_ptr()
        self.key, self.floats = key, floats
        self.names: set[str] = set()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in it."""
        return tensor.untyped_storage().data_ptr() == self.storage


class Arena:
    """Buffers by key; the one that was freed last is taken first, as it is still in the cache.

    Example:
        >>> arena = Arena()
        >>> first = arena.take("a", 100, key="image")
        >>> arena.free("a")
        >>> arena.take("b", 80, key="image") is first, arena.take("c", 80, key="image") is first
        (True, False)
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._free: list[Buffer] = []

    @property
    def bytes(self) -> int:
        """Memory of all buffers."""
        return 4 * sum(buffer.floats for buffer in self.buffers)

    def take(self, name: str, floats: int, key: Hashable) -> Buffer:
        """A buffer for a value."""
        fits = [b for b in self._free if b.key == key and floats <= b.floats <= 4 * floats + 4096]
        if fits:
            buffer = fits[-1]
            self._free.remove(buffer)
        else:
            buffer = Buffer(floats, key)
            self.buffers.append(buffer)
        buffer.names.add(name)
        return buffer

    def share(self, name: str, tensor: Tensor) -> Buffer | None:
        """Say that a value is part of a buffer's memory; None if it is in none."""
        for buffer in self.buffers:
            if buffer.names and buffer.holds(tensor):
                buffer.names.add(name)
                return buffer
        return None

    def find(self, tensor: Tensor) -> Buffer | None:
        """The buffer that a tensor lies in."""
        return next((buffer for buffer in self.buffers if buffer.holds(tensor)), None)

    def free(self, name: str) -> None:
        """A value is not needed any more."""
        for buffer in self.buffers:
            if name in buffer.names:
                buffer.names.discard(name)
                if not buffer.names:
                    self._free.append(buffer)
