"""What kernels over planes do with their sums, whatever they add up: bias, residual, activation,
and the mask that keeps borders zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.core.errors import InputError
from secateur.runtime.kernels.activation import activate
from secateur.runtime.kernels.ir import Function
from secateur.runtime.planes import Planes

_CHEAP = ("none", "relu", "relu6")
_BEHIND = 256  # positions behind an image's end that a mask is there for
_ARRAYS, _NUMBERS = 2, 2


def outputs(layer: Planes, lanes: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """What a context begins with: the arrays of bias and mask, and two numbers.

    Raises:
        InputError: An offset is beyond 31 bits, in which kernels keep them.

    Example:
        >>> from secateur.runtime.planes import from_linear
        >>> bias, mask, (pitch, known) = outputs(from_linear(np.eye(2), pitch=16), 8)
        >>> bias.tolist(), pitch, known
        ([0.0, 0.0], 16, 0)
    """
    if max(map(abs, layer.reach)) >= 2**31:
        raise InputError("an offset is beyond 2**31 floats")
    bias = np.zeros(layer.rows, np.float32) if layer.bias is None else layer.bias
    mask = np.zeros(0, np.uint32) if layer.mask is None else layer.mask
    known = -(-len(mask) // lanes) * lanes
    mask = np.concatenate([mask, np.zeros(known - len(mask) + _BEHIND, np.uint32)])
    return bias, mask, (layer.out_pitch, known)


class Writer:
    """Writes the beginning and the end of tiles: vectors of positions of one plane.

    arrays: how many there are in the context behind those of `outputs`.
    """

    def __init__(self, f: Function, layer: Planes, arrays: int) -> None:
        self.f, self._behind = f, _ARRAYS + arrays
        self.activation, self.residual = layer.activation, layer.residual
        self.masked = layer.mask is not None
        self.bias, self.mask = (f.read("%context", i, "ptr") for i in range(_ARRAYS))
        self.pitch, self.known = (f.read("%context", self._behind + i) for i in range(_NUMBERS))

    def array(self, i: int) -> str:
        """An array of the kernel's own."""
        return self.f.read("%context", _ARRAYS + i, "ptr")

    def number(self, i: int) -> str:
        """A number of the kernel's own."""
        return self.f.read("%context", self._behind + _NUMBERS + i)

    def along(self, pointer: str, size: int) -> list[str]:
        """Where a tile's vectors are."""
        return [self.f.at(pointer, i * self.f.lanes) for i in range(size)]

    def start(self, row: str, here: str, size: int) -> list[str]:
        """What sums start from: bias and residual. here: floats from the first plane's origin."""
        f = self.f
        bias = f.broadcast(f.at(self.bias, row))
        if not self.residual:
            return [bias] * size
        return [f.add(bias, f.load(place)) for place in self.along(f.at("%residual", here), size)]

    def finish(self, position: str, places: Sequence[str], sums: Sequence[str]) -> None:
        """Activation, mask, store."""
        f = self.f
        where = f.least(position, self.known) if self.masked else ""
        if self.activation in _CHEAP:
            for i, (value, place) in enumerate(zip(sums, places, strict=True)):
                self._store(activate(f, self.activation, value), place, where, i * f.lanes)
            return
        for value, place in zip(sums, places, strict=True):
            f.store(value, place)
        with f.loop(0, len(places) * f.lanes, f.lanes) as i:
            place = f.at(places[0], i.index)
            self._store(activate(f, self.activation, f.load(place)), place, where, i.index)

    def _store(self, value: str, place: str, where: str, more: str | int) -> None:
        f = self.f
        if self.masked:
            kept = f.at(self.mask, f.integer("add", where, more), "i32")
            kind = f"<{f.lanes} x i32>"
            value = f.bits("and", value, f.value(f"load {kind}, ptr {kept}, align 4"))
        f.store(value, place)
