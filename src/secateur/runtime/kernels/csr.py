"""The planes kernel over compressed sparse rows, for any processor that LLVM knows.

A tile is `V` vectors of positions of one output plane, held in registers: for each non-zero its
value is broadcast and multiplied with `V` vectors of the input. Several non-zeros go into sums of
their own where `V` is too small to keep the multipliers busy. All planes are made for one tile of
positions before the next, so that the part of the input that they read stays in the cache; inputs
with many planes are taken in blocks of columns for the same reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function
from secateur.runtime.kernels.outputs import Writer, outputs
from secateur.runtime.machine import near
from secateur.runtime.planes import Planes

_NAME = "planes"
_LINE = 16  # floats in a cache line
_MOST_BLOCKS = 16
_FEW = 12  # non-zeros of a row in a block of columns, at least


@dataclass(frozen=True)
class Tile:
    """vectors: of positions that are held in registers. blocks: of columns."""

    vectors: int
    blocks: int = 1

    @property
    def fits(self) -> bool:
        """Whether this machine has the registers."""
        most = llvm.host().registers - 3
        return 1 <= self.vectors <= most and 1 <= self.blocks <= _MOST_BLOCKS


class CsrKernel(BoundKernel):
    """A layer compiled for this machine; see `planes.Kernel`.

    tile: how it is cut up (`tiles` gives those that are worth timing).

    Example:
        >>> from secateur.runtime.planes import from_linear
        >>> layer = from_linear(np.eye(2, dtype=np.float32) * 3, pitch=16)
        >>> x, y = np.ones((2, 16), np.float32), np.zeros((2, 16), np.float32)
        >>> if llvm.available():
        ...     kernel = CsrKernel(layer)
        ...     kernel(x.ctypes.data, y.ctypes.data, 0, 0, 16, 0, 2)
        ...     assert (y == 3).all()
    """

    block = 1

    def __init__(self, layer: Planes, tile: Tile | None = None) -> None:
        target = llvm.host()
        tile = tile or tiles(layer)[0]
        if not tile.fits:
            most = target.registers - 3
            raise InputError(
                f"{tile} does not fit this machine",
                hint=f"1 to {most} vectors and 1 to {_MOST_BLOCKS} blocks",
            )
        bias, mask, numbers = outputs(layer, target.lanes)
        self.step, self.wide = target.lanes, target.lanes * tile.vectors
        self.tile = tile
        indptr, order = _blocked(layer, tile.blocks)
        entries = np.empty(layer.nnz, [("offset", "<i4"), ("value", "<f4")])
        entries["offset"], entries["value"] = layer.offsets[order], layer.values[order]
        arrays = (bias, mask, entries, indptr)
        text = source(layer, tile, target)
        super().__init__("llvm-csr", text, _NAME, arrays, (*numbers, tile.blocks, layer.rows))


def tiles(layer: Planes, positions: int = 1 << 20) -> list[Tile]:
    """Tiles that are worth timing for a layer and a number of positions, the likely best first.

    Example:
        >>> from secateur.runtime.planes import from_linear
        >>> if llvm.available():
        ...     assert tiles(from_linear(np.eye(3), pitch=16), positions=3) == [Tile(1)]
    """
    target = llvm.host()
    most = target.registers - 3
    vectors = max(1, -(-positions // target.lanes))
    even = -(-vectors // -(-vectors // most))
    whole = [Tile(n) for n in dict.fromkeys((min(4, even), even))]
    parts = []
    for vectors in dict.fromkeys((min(8, even), even, min(4, even))):
        blocks = min(_MOST_BLOCKS, round(_touched(layer, vectors * target.lanes) / near()))
        # a part of a row takes about as long to begin and to end as a few of its non-zeros
        blocks = min(blocks, layer.nnz // max(1, layer.rows * _FEW))
        if blocks > 1:
            parts.append(Tile(vectors, blocks))
    long = bool(parts) and layer.nnz >= 2 * _FEW * layer.rows * parts[0].blocks
    return [*parts, *whole] if long else [*whole, *parts]


def _touched(layer: Planes, floats: int) -> int:
    """Bytes of the cache lines that all planes read for one tile of positions."""
    lines = np.unique(np.unique(layer.offsets) // _LINE)
    last = -(-floats // _LINE)
    return len(np.unique(lines[:, None] + np.arange(last + 1))) * _LINE * 4


def _blocked(layer: Planes, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the rows of every block of columns are, and the order of the non-zeros.

    Blocks share the range of offsets equally.
    """
    if blocks == 1 or not layer.nnz:
        ends = layer.indptr[1:]
        indptr = np.concatenate([layer.indptr, np.repeat(ends[-1:], layer.rows * (blocks - 1))])
        return indptr, np.arange(layer.nnz)
    low, high = layer.reach
    where = (layer.offsets - low) * blocks // (high - low + 1)
    rows = np.repeat(np.arange(layer.rows), np.diff(layer.indptr))
    key = where * layer.rows + rows
    order = np.argsort(key, kind="stable")
    counts = np.bincount(key, minlength=blocks * layer.rows)
    return np.concatenate([[0], np.cumsum(counts)]), order


def source(layer: Planes, tile: Tile, target: llvm.Target) -> str:
    """The text of the kernel that a layer needs; layers of the same kind share it."""
    f = Function(_NAME, [CONTEXT, *ARGUMENTS], lanes=target.lanes, fused=target.fused)
    writer = _Writer(f, layer, target.registers)
    writer.write(tile)
    return f.text()


class _Writer(Writer):
    """Writes one kernel; the names of what it reads from the context are fields."""

    def __init__(self, f: Function, layer: Planes, registers: int) -> None:
        super().__init__(f, layer, arrays=2)
        self.registers = registers
        self.entries, self.indptr = (self.array(i) for i in range(2))
        self.blocks, self.rows = (self.number(i) for i in range(2))

    def write(self, tile: Tile) -> None:
        """Tiles of `V` vectors, then smaller ones for what is left."""
        begin = "%begin"
        sizes = [tile.vectors, *(n for n in (4, 2, 1) if n < tile.vectors)]
        for size in sizes:
            with self.f.loop(begin, "%end", size * self.f.lanes) as position:
                if tile.blocks == 1:
                    self._planes(position.index, size, 0, first=True, last=True)
                else:
                    final = self.f.integer("sub", self.blocks, 1)
                    self._planes(position.index, size, 0, first=True, last=False)
                    with self.f.loop(1, final) as block:
                        self._planes(position.index, size, block.index, first=False, last=False)
                    self._planes(position.index, size, final, first=False, last=True)
            begin = position.index

    def _planes(
        self, position: str, size: int, block: str | int, *, first: bool, last: bool
    ) -> None:
        """All planes of the range, for one tile of positions and one block of columns."""
        f = self.f
        x = f.at("%x", position)
        skipped = f.integer("mul", block, self.rows)
        with f.loop("%first", "%last") as row:
            place = f.integer("add", skipped, row.index)
            start = f.read(self.indptr, place)
            stop = f.read(self.indptr, f.integer("add", place, 1))
            here = f.integer("add", f.integer("mul", row.index, self.pitch), position)
            places = self.along(f.at("%y", here), size)
            # the first block starts from the bias, the others from what is in the output
            sums = self.start(row.index, here, size) if first else [f.load(y) for y in places]
            sums = self._sum(x, start, stop, sums)
            if last:
                self.finish(position, places, sums)
            else:
                for value, y in zip(sums, places, strict=True):
                    f.store(value, y)

    def _sum(self, x: str, start: str, stop: str, sums: Sequence[str]) -> list[str]:
        """Add up the non-zeros of a row, several at a time into sums of their own."""
        f, size = self.f, len(sums)
        ways = max(1, min(8 // size, (self.registers - 2) // size))
        zero = f.constant(0)
        begin, values = start, list(sums)
        if ways > 1:
            with f.loop(start, stop, ways, [*sums, *[zero] * (size * (ways - 1))]) as many:
                many.after = []
                for way in range(ways):
                    part = many.values[way * size : (way + 1) * size]
                    many.after += self._add(x, f.integer("add", many.index, way), part)
            begin, values = many.index, many.values[:size]
            for way in range(1, ways):
                part = many.values[way * size : (way + 1) * size]
                values = [f.add(a, b) for a, b in zip(values, part, strict=True)]
        with f.loop(begin, stop, 1, values) as one:
            one.after = self._add(x, one.index, one.values)
        return one.values

    def _add(self, x: str, index: str, sums: Sequence[str]) -> list[str]:
        """One non-zero."""
        f = self.f
        entry = f.at(self.entries, index, "i64")
        offset = f.read(entry, 0, "i32")
        value = f.broadcast(f.at(entry, 1))
        places = self.along(f.at(x, offset), len(sums))
        return [f.fma(value, f.load(place), s) for place, s in zip(places, sums, strict=True)]
