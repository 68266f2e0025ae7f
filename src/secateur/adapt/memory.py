"""What a dial takes in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur.core.page import amount


@dataclass(frozen=True)
class Memory:
    """Bytes of a dial: the dense network, each smaller level as stored, and what is unpacked.

    unpacked: of the levels in `ready`, without what they share with the dense network.

    Example:
        >>> print(Memory(1000, {0.5: 150, 0.25: 50}, 300, (0.5,)))
        memory: 1.00 kB dense + 200 B for 2 smaller levels = 1.20 times the dense network;
        unpacked now: 300 B (0.5)
    """

    dense: int
    levels: Mapping[float, int]
    unpacked: int = 0
    ready: tuple[float, ...] = ()

    @property
    def stored(self) -> int:
        """The dense network and all levels."""
        return self.dense + sum(self.levels.values())

    @property
    def times(self) -> float:
        """All that is stored, relative to the dense network alone."""
        return self.stored / max(self.dense, 1)

    def __str__(self) -> str:
        """One sentence."""
        extra = amount(sum(self.levels.values()), "B")
        text = f"memory: {amount(self.dense, 'B')} dense + {extra} for {len(self.levels)} smaller "
        text += f"level{'s' * (len(self.levels) != 1)} = {self.times:.2f} times the dense network"
        if not self.ready:
            return text
        names = ", ".join(f"{level:g}" for level in sorted(self.ready, reverse=True))
        return f"{text}; unpacked now: {amount(self.unpacked, 'B')} ({names})"
