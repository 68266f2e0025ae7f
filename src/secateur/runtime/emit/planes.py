"""Kernels for planes, emitted as machine code for AVX2 and AVX-512, without any compiler.

Two ways: `Loop` runs over a stream of the non-zeros, `Straight` has an instruction for each. Where
the processor multiplies with a broadcast straight from memory (AVX-512), straight lines need the
fewest instructions. Elsewhere they take three times the bytes of a loop's stream, and fetching them
is what they wait for, except where all of them stay in the level-1 cache, or where many non-zeros
share what is loaded and many tiles of positions what is fetched.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from secateur.core.errors import InputError, UnsupportedModel
from secateur.runtime.emit import loop as looping
from secateur.runtime.emit import straight as straightening
from secateur.runtime.emit.isa import AVX2, AVX512, FORMS, Isa
from secateur.runtime.emit.order import Tile
from secateur.runtime.machine import Code, features, level2, near
from secateur.runtime.machine.assembler import WINDOWS
from secateur.runtime.machine.memory import machine
from secateur.runtime.planes import Planes

SLACK = 256  # positions behind the mask's end that may be asked for; they are zeros
_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 7)
_COPIES = 64 << 10  # bytes of a thread's stack that copies of columns may take
_RECORD = 10  # non-zeros that pay for the loads and stores of a row's sums
_CODE = 24 << 10  # bytes of code that stay in the level-1 cache
_DENSE = 2 << 20  # bytes of code beyond which loops were always faster
_FAR = 2**31 - 2**16  # distances have 32 bits


@dataclass(frozen=True)
class Loop:
    """How a looping kernel goes about it.

    vectors: of a tile, at most. columns: bytes of input that a block of columns may touch. rows: of
    a row block, within which rows are sorted; ranges of rows are whole blocks. packed: whether the
    columns of a block are copied to where they follow each other; pays with many non-zeros in each.
    ahead: what the next tile copies and writes is asked for, from further away than level 2.
    """

    vectors: int = 8
    columns: int = 28 << 10
    rows: int = 256
    packed: bool = False
    ahead: bool = False


Way = Loop | Tile


class EmittedKernel:
    """A layer as a routine of its own; see `secateur.runtime.planes.Kernel`.

    way: a `Loop`, or a `Tile` of straight lines. With a mask, positions end at most `SLACK` behind
    its end. `UnsupportedModel` for what `supports` refuses, `Forbidden` where no code may be run.

    Example:
        >>> import numpy as np
        >>> from secateur.runtime.planes import from_linear
        >>> layer = from_linear(np.eye(2, dtype=np.float32), pitch=16)
        >>> x, y = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
        >>> for isa in available():
        ...     kernel = EmittedKernel(layer, Loop(), isa)
        ...     kernel(x.ctypes.data, y.ctypes.data, 0, 0, 16, 0, 2)
        ...     assert (x == y).all()
    """

    def __init__(self, layer: Planes, way: Way, isa: Isa) -> None:
        code, start = emit(layer, way, isa)
        self._code = Code(code)
        self.way = way
        self.name = f"emit-{isa.name}" + ("-loop" if isinstance(way, Loop) else "")
        self.step = isa.lanes * (1 if isinstance(way, Loop) else way.vectors)
        self.wide = isa.lanes * way.vectors * (1 if isinstance(way, Loop) else way.tiles)
        self.block = way.rows
        self.bytes = len(code)
        self._most = 2**62 if layer.mask is None else len(layer.mask) + SLACK
        self.address = self._code.address + start
        self._call = _SIGNATURE(self.address)

    def __call__(
        self, x: int, y: int, residual: int, begin: int, end: int, first: int, last: int
    ) -> None:
        """Run on addresses of float32 buffers."""
        if end > self._most:
            raise InputError(f"position {end} is more than {SLACK} behind the mask's end")
        self._call(x, y, residual, begin, end, first, last)


def supports(layer: Planes) -> bool:
    """Whether a layer's activation and distances can be emitted, whatever this machine can run.

    Example:
        >>> import numpy as np
        >>> from secateur.runtime.planes import from_linear
        >>> [supports(from_linear(np.eye(2), pitch=2, activation=a)) for a in ("relu", "gelu")]
        [True, False]
    """
    low, high = layer.reach
    far = max(-low, high, layer.out_pitch * layer.rows) * 4 < _FAR
    return layer.activation in FORMS and far


def available() -> list[Isa]:
    """The instruction sets that this machine runs, the best first."""
    if machine() != "x86-64":
        return []
    return [isa for isa in (AVX512, AVX2) if isa.needs <= features()]


def ways(layer: Planes, isa: Isa, positions: int = 1 << 20) -> list[Way]:
    """What is worth to be timed for a layer and a number of positions, the likely best first.

    Wide tiles spend fewer broadcasts; narrow ones leave more columns to a block, and so more
    non-zeros to a row of it, which matters when these are few. None is wider than the positions.
    """
    all_of = max(1, -(-positions // isa.lanes))
    rows = layer.rows if layer.rows <= 128 else min(256, -(-layer.rows // 2))
    low, high = layer.reach
    far = 4 * max(layer.out_pitch * layer.rows, high - low) > level2()

    def loop(vectors: int, packed: bool = False, ahead: bool = far) -> Way:
        vectors = -(-all_of // -(-all_of // vectors))  # as wide as tiles of equal widths are
        columns = near() if packed else _columns(layer, vectors * isa.lanes)
        return Loop(vectors, columns, rows, packed, ahead)

    if layer.density > 0.3:
        loops = [loop(12, True), loop(8, True), loop(12, True, False)]
    elif layer.density > 0.06:
        loops = [loop(8, True), loop(5, True), loop(8, True, False), loop(10), loop(8)]
    else:
        loops = [loop(5, True), loop(8), loop(5, True, False), loop(5), loop(12)]
    loops = list(dict.fromkeys([*loops, loop(4)] if isa.wide else loops))
    if isa.wide:  # several tiles share the instructions that are fetched for a segment
        return [*(Tile(30, 1, tiles=n, ahead=far) for n in (4, 8)), *loops]
    code = 24 * layer.nnz
    if layer.density > 0.3 and code < _DENSE:  # shares weights and inputs; fetched once for 16
        return [Tile(6, 2, tiles=16), *loops]
    return [*loops, Tile(6, 2)] if code < _CODE else loops


def _columns(layer: Planes, positions: int) -> int:
    """Most of the level-1 cache, and more where rows would have only a few non-zeros of a block."""
    read = 4 * positions * len(np.unique(layer.offsets))
    return max(near(), int(read * _RECORD * layer.rows / max(1, layer.nnz)))


def emit(layer: Planes, way: Way, isa: Isa, *, windows: bool = WINDOWS) -> tuple[bytes, int]:
    """The machine code of a layer with its data, and where in it the function begins.

    windows: for its calling convention.
    """
    looped = isinstance(way, Loop)
    held = way.vectors + 2 + way.packed if looped else straightening.registers(way, isa)
    small = min(way.rows, way.vectors, way.columns) < 1
    if looped and way.packed:
        small |= way.columns > _COPIES
    elif not looped:
        small |= min(way.tiles, way.code) < 1
    if small or not supports(layer) or held > isa.registers:
        raise UnsupportedModel(
            f"no {isa.name} kernel is emitted for {way}, activation {layer.activation}",
            hint=f"activations {', '.join(FORMS)}; at most {isa.registers} registers, not {held}; "
            f"sizes from 1; at most {_COPIES} bytes of copies",
        )
    mask = b"" if layer.mask is None else layer.mask.tobytes() + bytes(4 * SLACK)
    if isinstance(way, Loop):
        packed = way.packed and layer.nnz > 0
        sizes = (way.vectors, way.columns, way.rows)
        return looping.emit(layer, isa, *sizes, packed, way.ahead, mask, windows)
    return straightening.emit(layer, way, isa, mask, windows), 0
