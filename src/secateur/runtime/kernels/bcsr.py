"""The planes kernel over blocks of rows, for full matrices and those that are pruned in blocks.

A tile is `R` output planes times `V` vectors of positions, held in registers: a vector of inputs
that was loaded serves `R` rows, and a weight that was broadcast `V` vectors. The rows of a block
share the columns that any of them reads (block compressed sparse rows: Im & Yelick, "Optimizing
sparse matrix computations for register reuse in SPARSITY", 2001). Where a row has no weight in such
a column the input is multiplied with zero, as PyTorch does in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function
from secateur.runtime.kernels.outputs import Writer, outputs
from secateur.runtime.planes import Planes

_NAME = "blocks"
_PADDED = 1.5  # entries for each non-zero up to which blocks are worth timing
_SOME = 96  # rows that are looked at for this


@dataclass(frozen=True)
class Tile:
    """rows: of a block. vectors: of positions that are held in registers."""

    rows: int
    vectors: int

    @property
    def fits(self) -> bool:
        """Whether this machine has the registers: for sums, inputs, and one weight."""
        least = min(self.rows, self.vectors)
        return least > 0 and (self.rows + 1) * self.vectors + 1 <= llvm.host().registers


class BcsrKernel(BoundKernel):
    """A layer compiled for this machine; see `planes.Kernel`.

    tile: how it is cut up (`tiles` gives those that are worth timing).

    Raises:
        InputError: The tile does not fit the registers, or an offset 31 bits.

    Example:
        >>> from secateur.runtime.planes import from_linear
        >>> layer = from_linear(np.ones((3, 2), np.float32), pitch=16)
        >>> x, y = np.ones((2, 16), np.float32), np.zeros((3, 16), np.float32)
        >>> if llvm.available():
        ...     kernel = BcsrKernel(layer, Tile(2, 2))
        ...     kernel(x.ctypes.data, y.ctypes.data, 0, 0, 16, 0, 3)
        ...     assert (y == 2).all()
    """

    def __init__(self, layer: Planes, tile: Tile) -> None:
        target = llvm.host()
        if not tile.fits:
            raise InputError(
                f"{tile} does not fit this machine",
                hint=f"rows times vectors, and vectors, and one: at most {target.registers}",
            )
        bias, mask, numbers = outputs(layer, target.lanes)
        self.step, self.wide = target.lanes, target.lanes * tile.vectors
        self.block, self.tile = tile.rows, tile
        arrays = (bias, mask, *_blocked(layer, tile.rows))
        text = source(layer, tile, target)
        super().__init__("llvm-bcsr", text, _NAME, arrays, (*numbers, layer.rows - 1))


def tiles(layer: Planes) -> list[Tile]:
    """Tiles that are worth timing for a layer: none where blocks would be mostly zeros.

    Example:
        >>> from secateur.runtime.planes import from_linear
        >>> tiles(from_linear(np.eye(8), pitch=16))
        []
    """
    registers = llvm.host().registers
    shapes = ((4, 3), (6, 2)) if registers < 32 else ((8, 3), (6, 4))
    found = [Tile(*shape) for shape in shapes]
    some = min(layer.rows, _SOME)
    limit = _PADDED * layer.indptr[some]
    columns = {t: len(np.unique(_keys(layer, _rows(layer, some), t.rows))) for t in found}
    return [t for t in found if 0 < t.rows * columns[t] <= limit]


def _rows(layer: Planes, most: int) -> np.ndarray:
    """The row of each non-zero of the first rows."""
    return np.repeat(np.arange(most), np.diff(layer.indptr[: most + 1]))


def _keys(layer: Planes, row: np.ndarray, rows: int) -> np.ndarray:
    """Numbers of non-zeros, alike for one block and offset, and greater for later ones."""
    low, high = layer.reach
    return row // rows * (high - low + 1) + layer.offsets[: len(row)] - low


def _blocked(layer: Planes, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each block's columns are, their offsets, and float32 values `[columns, rows]`.

    Rows that the last block lacks are the last one again: what is written there is the same twice.
    """
    low, high = layer.reach
    span, blocks = high - low + 1, -(-layer.rows // rows)
    row = _rows(layer, layer.rows)
    columns, where = np.unique(_keys(layer, row, rows), return_inverse=True)
    values = np.zeros((len(columns), rows), np.float32)
    np.add.at(values, (where, row % rows), layer.values)
    indptr = np.zeros(blocks + 1, np.int64)
    np.cumsum(np.bincount(columns // span, minlength=blocks), out=indptr[1:])
    last = (layer.rows - 1) % rows
    values[indptr[-2] :, last + 1 :] = values[indptr[-2] :, last : last + 1]
    return indptr, (columns % span + low).astype(np.int32), values


def source(layer: Planes, tile: Tile, target: llvm.Target) -> str:
    """The text of the kernel that a layer needs; layers of the same kind share it."""
    f = Function(_NAME, [CONTEXT, *ARGUMENTS], lanes=target.lanes, fused=target.fused)
    _Writer(f, layer, tile.rows).write(tile.vectors)
    return f.text()


class _Writer(Writer):
    """Writes one kernel; the names of what it reads from the context are fields."""

    def __init__(self, f: Function, layer: Planes, rows: int) -> None:
        super().__init__(f, layer, arrays=3)
        self.rows = rows
        self.indptr, self.offsets, self.values = (self.array(i) for i in range(3))
        self.last = self.number(0)

    def write(self, vectors: int) -> None:
        """Tiles of `V` vectors, then smaller ones for what is left; all blocks for each tile."""
        begin, f = "%begin", self.f
        last = f.integer("add", "%last", self.rows - 1)  # the last block may not be whole
        for size in [vectors, *(n for n in (2, 1) if n < vectors)]:
            with (
                f.loop(begin, "%end", size * f.lanes) as position,
                f.loop("%first", last, self.rows) as row,
            ):
                self._block(position.index, row.index, size)
            begin = position.index

    def _block(self, position: str, row: str, size: int) -> None:
        """One tile."""
        f = self.f
        block = f.integer("sdiv", row, self.rows)
        start, stop = (f.read(self.indptr, n) for n in (block, f.integer("add", block, 1)))
        rows = [f.least(f.integer("add", row, r), self.last) for r in range(self.rows)]
        here = [f.integer("add", f.integer("mul", r, self.pitch), position) for r in rows]
        sums = [s for r, h in zip(rows, here, strict=True) for s in self.start(r, h, size)]
        x = f.at("%x", position)
        with f.loop(start, stop, 1, sums) as column:
            offset = f.read(self.offsets, column.index, "i32")
            inputs = [f.load(place) for place in self.along(f.at(x, offset), size)]
            weights = f.at(self.values, f.integer("mul", column.index, self.rows))
            for r in range(self.rows):
                weight = f.broadcast(f.at(weights, r))
                for v, value in enumerate(inputs, r * size):
                    column.after[v] = f.fma(weight, value, column.values[v])
        for r, h in enumerate(here):
            sums = column.values[r * size : (r + 1) * size]
            self.finish(position, self.along(f.at("%y", h), size), sums)
