"""Memory of one run: buffers that are used again as soon as nothing needs what is in them."""

from __future__ import annotations

import mmap
from collections.abc import Hashable
from contextlib import suppress

import torch
from torch import Tensor

LINE = 16
"""Floats in a cache line."""
_CHUNK = 8 << 20  # floats that are asked for at once; memory that is not touched costs nothing
_HUGE = 1 << 19  # floats in a huge page


class Buffer:
    """Float32 memory, zero when it is made, aligned to a cache line.

    key: buffers are used again for the same key only, so that borders stay zero. names: the values
    that are in it now.
    """

    def __init__(self, tensor: Tensor, key: Hashable) -> None:
        self.tensor = tensor
        self.address, self.floats = tensor.data_ptr(), tensor.numel()
        self.key = key
        self.names: set[str] = set()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in it."""
        return self.address <= tensor.data_ptr() < self.address + 4 * self.floats


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
        self._room = torch.empty(0)

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
            buffer = Buffer(self._zeros(floats), key)
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

    def take_over(self, name: str, tensor: Tensor, key: Hashable, last: set[str]) -> Buffer | None:
        """The buffer that a tensor lies in, for a value that is written over it.

        None where it is of another key, or where more is in it than what is read for the last time.
        """
        buffer = self.find(tensor)
        if buffer is None or buffer.key != key or not buffer.names <= last:
            return None
        buffer.names.add(name)
        return buffer

    def free(self, name: str) -> None:
        """A value is not needed any more."""
        for buffer in self.buffers:
            if name in buffer.names:
                buffer.names.discard(name)
                if not buffer.names:
                    self._free.append(buffer)

    def disturb(self) -> None:
        """Change all that was left in the buffers, zeros apart: what a run does not write, shows.

        Example:
            >>> arena = Arena()
            >>> left = arena.take("a", 2, key="image").tensor
            >>> left[0] = 1
            >>> arena.disturb()
            >>> left.tolist()
            [3.0, 0.0]
        """
        for buffer in self.buffers:
            buffer.tensor.mul_(3)

    def _zeros(self, floats: int) -> Tensor:
        """Memory behind what was taken last: neighbours need fewer entries of the TLB."""
        size = -(-max(floats, 1) // LINE) * LINE
        if size > len(self._room):
            self._room = _fresh(max(size, _CHUNK))
        taken, self._room = self._room[:floats], self._room[size:]
        return taken


def _fresh(floats: int) -> Tensor:
    """Zeros in huge pages, where the system has them."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        raw = torch.zeros(floats + LINE)
        return raw[-raw.data_ptr() % (4 * LINE) // 4 :][:floats]
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, 4 * (floats + _HUGE), flags=private)
    with suppress(OSError):  # a system that has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    raw = torch.frombuffer(memory, dtype=torch.float32)
    return raw[-raw.data_ptr() % (4 * _HUGE) // 4 :][:floats]
