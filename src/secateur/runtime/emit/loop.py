"""Loops over a stream of non-zeros: little code, six or eight bytes for each non-zero.

A tile of outputs, one row and a few vectors, is held in registers. Each non-zero is broadcast and
multiplied with the inputs that it reads. These lie in the level-1 cache, because one block of
columns is worked through at a time. A row's non-zeros of a block are one record of the stream;
records of equal length follow each other, so that the processor foresees where a row ends.

Columns may be copied first, to where they follow each other and begin at whole lines. That pays
where a column has many non-zeros: a vector across two lines is loaded at half the speed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from secateur.runtime.emit import loop_body as body
from secateur.runtime.emit.frame import Frame
from secateur.runtime.emit.isa import Isa
from secateur.runtime.emit.order import blocks
from secateur.runtime.emit.stream import stream
from secateur.runtime.machine.assembler import (
    R8,
    R9,
    R10,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    Assembler,
)
from secateur.runtime.planes import Planes

# What the code finds in front of itself: distances from there, and numbers, of 64 bits.
_HEAD = ("index", "stream", "mask", "block", "stride", "middle", "lists", "list")
_OWN = ("records", "count", "width", "at", "left", "head", "list", "copies")
_ENTRY = 8 * len(_HEAD)


def emit(
    layer: Planes,
    isa: Isa,
    vectors: int,
    columns: int,
    rows: int,
    packed: bool,
    ahead: bool,
    mask: bytes,
    windows: bool,
) -> tuple[bytes, int]:
    """Code and data of a layer, and where the function begins; see `Loop` for the numbers."""
    lists = np.zeros((0, 0), np.int32)
    if packed:
        layer, block, lists = pack(layer, vectors * isa.lanes, columns)
    else:
        block = blocks(layer.offsets, vectors * isa.lanes, columns)
    many = int(block.max(initial=0)) + 1
    kinds = (
        (body.FIRST | body.LAST,)
        if many == 1
        else (body.FIRST, body.LAST)
        if many == 2
        else (body.FIRST, 0, body.LAST)
    )
    room = -(-(lists.shape[1] * 4 * isa.lanes * vectors) // 4096) * 4096  # few sizes, few codes
    form = (layer.activation, layer.residual, bool(mask), ahead)
    code = loops(isa, vectors, kinds, *form, windows, room)
    index, data = stream(layer, block, many, rows, near=packed)
    places = np.cumsum([len(code), index.nbytes, data.nbytes, len(mask)])
    numbers = (rows, index.strides[0], many - 2, places[3], lists.strides[0])
    head = np.array([*places[:3], *numbers], np.int64).tobytes()
    parts = (code[_ENTRY:], index.tobytes(), data.tobytes(), mask, lists.tobytes())
    return b"".join([head, *parts]), _ENTRY


def pack(layer: Planes, positions: int, budget: int) -> tuple[Planes, np.ndarray, np.ndarray]:
    """The layer as it reads copies of its columns that lie one after the other, block by block.

    Also: the block of each non-zero, and for each block how many columns are copied and from which
    distances in bytes.
    """
    columns, which = np.unique(layer.offsets, return_inverse=True)
    block = blocks(np.arange(len(columns)) * positions, positions, budget)
    count = np.bincount(block, minlength=1)
    begin = np.cumsum(count) - count
    lists = np.zeros((len(count), 1 + count.max()), np.int32)
    lists[:, 0] = count
    lists[block, 1 + np.arange(len(columns)) - begin[block]] = 4 * columns
    return replace(layer, offsets=(which - begin[block][which]) * positions), block[which], lists


@lru_cache(maxsize=64)
def loops(
    isa: Isa,
    vectors: int,
    kinds: tuple[int, ...],
    activation: str,
    residual: bool,
    masked: bool,
    ahead: bool,
    windows: bool,
    room: int = 0,
) -> bytes:
    """The code for all layers of a kind, with room in front for what is a layer's own.

    Positions are split into as few tiles as `vectors` allows, all about equally wide. kinds: of the
    blocks of columns, in order. room: bytes for copies of columns; 0: inputs are read as they lie.
    """
    code = Assembler()
    code.label("head")
    code.raw(bytes(_ENTRY))
    frame = Frame(
        code, windows, ("records", "count", "width", "at", "left", "head", "list", "copies"), room
    )
    _driver(code, frame, isa, vectors, kinds, room > 0)
    frame.leave()
    for kind in kinds:
        for v in range(1, vectors + 1):
            code.align(32)
            code.label(f"{kind} {v}")
            body.rows(code, isa, kind, v, activation, residual, masked, ahead, near=room > 0)
    for v in range(1, vectors + 1) if room else ():
        code.align(64)
        code.label(f"copy {v}")
        body.copies(code, isa, v, vectors, ahead)
    code.align(8)
    code.label("six")
    code.raw(np.full(2, 6, np.float32).tobytes())
    code.label("table")
    for kind in kinds:
        for v in range(1, vectors + 1):
            code.raw(code.labels[f"{kind} {v}"].to_bytes(8, "little"))
    for v in range(1, vectors + 1) if room else ():
        code.raw(code.labels[f"copy {v}"].to_bytes(8, "little"))
    code.align(64)
    return code.finish()


def _driver(
    code: Assembler, frame: Frame, isa: Isa, vectors: int, kinds: tuple[int, ...], packed: bool
) -> None:
    """Loops over tiles and blocks of columns; r12 to r15: x, y, residual, mask; rbp: vectors."""
    head = {name: 8 * i for i, name in enumerate(_HEAD)}
    code.address(RBX, "head")
    frame.store("head", RBX)
    frame.load(R10, "begin")
    frame.load(RAX, "end")
    code.minus(RAX, R10)
    code.set(RCX, isa.lanes)
    code.divide(RCX)
    code.move(RBP, RAX)
    code.times(R10, R10, 4)
    for register, name in ((R12, "x"), (R13, "y"), (R14, "residual")):
        frame.load(register, name)
        code.plus(register, R10)
    code.add(R12, body.AHEAD)
    code.load(R15, RBX, head["mask"])
    code.plus(R15, RBX)
    code.plus(R15, R10)

    frame.load(RAX, "last")
    frame.load(R8, "first")
    code.minus(RAX, R8)
    code.compare_to(RAX, 0)
    code.jump("done", "<=")
    frame.store("count", RAX)
    code.move(RAX, R8)
    code.load(RCX, RBX, head["block"])
    code.divide(RCX)
    code.times(RAX, RAX, 8)
    code.plus(RAX, RBX)
    code.load(RCX, RBX, head["index"])
    code.plus(RAX, RCX)
    if packed:
        frame.scratch(RCX)
        frame.store("copies", RCX)
    frame.store("records", RAX)  # where the index says where the first row block's are

    code.label("tile")
    code.compare_to(RBP, 0)
    code.jump("done", "<=")
    code.set(RCX, vectors)
    code.lea(RAX, RBP, vectors - 1)
    code.divide(RCX)
    code.move(RCX, RAX)  # tiles, and then their width
    code.lea(RAX, RBP, -1)
    code.plus(RAX, RCX)
    code.divide(RCX)
    frame.store("width", RAX)
    frame.load(RAX, "records")
    frame.store("at", RAX)
    if packed:
        code.load(RAX, RBX, head["lists"])
        code.plus(RAX, RBX)
        frame.store("list", RAX)
    code.load(RAX, RBX, head["middle"])
    frame.store("left", RAX)
    for i, kind in enumerate(kinds):
        code.label(f"kind {kind}")
        if packed:
            _call_copy(code, frame, head, vectors * len(kinds) - 1)
        _call(code, frame, head, vectors * i - 1, packed)
        if kind == 0:  # as many in between as there are
            frame.load(RAX, "left")
            code.add(RAX, -1)
            frame.store("left", RAX)
            code.jump("kind 0", "!=")
    frame.load(RCX, "width")
    code.minus(RBP, RCX)
    code.times(RCX, RCX, 4 * isa.lanes)
    for register in (R12, R13, R14, R15):
        code.plus(register, RCX)
    code.jump("tile")
    code.label("done")


def _call(code: Assembler, frame: Frame, head: dict[str, int], table: int, packed: bool) -> None:
    """Run one block of columns, and go on to the next one's records."""
    frame.load(R9, "at")
    code.load(RCX, RBX, head["stride"])
    code.plus(RCX, R9)
    frame.store("at", RCX)
    code.load(RAX, R9)
    code.load(RCX, RBX, head["stream"])
    code.plus(RAX, RCX)
    code.plus(RAX, RBX)
    _find(code, frame, table)
    for register, other in ((RDI, R12), (RSI, R13), (RDX, R14), (RCX, R15)):
        code.move(register, other)
    frame.load(R8, "count")
    if packed:
        frame.load(RDI, "copies")
        code.add(RDI, body.AHEAD)
    code.call(R10)
    frame.load(RBX, "head")


def _call_copy(code: Assembler, frame: Frame, head: dict[str, int], table: int) -> None:
    """Copy the columns of one block, and go on to the next one's list."""
    frame.load(R9, "list")
    code.load(RCX, RBX, head["list"])
    code.plus(RCX, R9)
    frame.store("list", RCX)
    _find(code, frame, table)
    frame.load(RSI, "copies")
    code.call(R10)


def _find(code: Assembler, frame: Frame, table: int) -> None:
    """The function for a tile's width to r10; `table`: where its kind begins, less one."""
    frame.load(R10, "width")
    code.times(R10, R10, 8)
    code.address(RCX, "table")
    code.plus(R10, RCX)
    code.load(R10, R10, 8 * table)
    code.plus(R10, RBX)
