"""Loops over a stream of non-zeros: little code, eight bytes for each non-zero.

A tile of outputs, one row and a few vectors, is held in registers. Each non-zero is broadcast and
multiplied with the inputs that it reads. These lie in the level-1 cache, because one block of
columns is worked through at a time. A row's non-zeros of a block are one record of the stream;
records of equal length follow each other, so that the processor foresees where a row ends.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from secateur.runtime.emit import encode as e
from secateur.runtime.emit.frame import Frame
from secateur.runtime.emit.isa import FORMS, Isa
from secateur.runtime.emit.order import blocks
from secateur.runtime.emit.stream import stream
from secateur.runtime.machine.assembler import (
    R8,
    R9,
    R10,
    R11,
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
_HEAD = ("index", "stream", "mask", "block", "stride", "middle")
_AHEAD = 128  # bytes that the input's pointer is ahead, so that one byte reaches both ways
_ENTRY = 8 * len(_HEAD)
_FEW = 5  # vectors, with which multiply-adds that wait for each other leave the units idle
_FIRST, _LAST = 1, 2  # blocks of columns that begin and end the sums


def emit(
    layer: Planes, isa: Isa, vectors: int, columns: int, rows: int, mask: bytes, windows: bool
) -> tuple[bytes, int]:
    """Code and data of a layer, and where the function begins; see `Loop` for the numbers."""
    block = blocks(layer.offsets, vectors * isa.lanes, columns)
    many = int(block.max(initial=0)) + 1
    kinds = (_FIRST | _LAST,) if many == 1 else (_FIRST, _LAST) if many == 2 else (_FIRST, 0, _LAST)
    code = loops(isa, vectors, kinds, layer.activation, layer.residual, bool(mask), windows)
    index, data = stream(layer, block, many, rows)
    places = np.cumsum([len(code), index.nbytes, data.nbytes])
    head = np.array([*places, rows, index.strides[0], many - 2], np.int64).tobytes()
    return b"".join([head, code[_ENTRY:], index.tobytes(), data.tobytes(), bytes(0), mask]), _ENTRY


@lru_cache(maxsize=64)
def loops(
    isa: Isa,
    vectors: int,
    kinds: tuple[int, ...],
    activation: str,
    residual: bool,
    masked: bool,
    windows: bool,
) -> bytes:
    """The code for all layers of a kind, with room in front for what is a layer's own.

    Positions are split into as few tiles as `vectors` allows, all about equally wide.
    """
    code = Assembler()
    code.label("head")
    code.raw(bytes(_ENTRY))
    frame = Frame(code, windows, ("records", "count", "width", "at", "left", "head"))
    _driver(code, frame, isa, vectors, kinds)
    frame.leave()
    for kind in kinds:
        for v in range(1, vectors + 1):
            code.align(32)
            code.label(f"{kind} {v}")
            _rows(code, isa, kind, v, activation, residual, masked)
    code.align(8)
    code.label("six")
    code.raw(np.full(2, 6, np.float32).tobytes())
    code.label("table")
    for kind in kinds:
        for v in range(1, vectors + 1):
            code.raw(code.labels[f"{kind} {v}"].to_bytes(8, "little"))
    code.align(64)
    return code.finish()


def _driver(code: Assembler, frame: Frame, isa: Isa, vectors: int, kinds: tuple[int, ...]) -> None:
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
    code.add(R12, _AHEAD)
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
    code.load(RAX, RBX, head["middle"])
    frame.store("left", RAX)
    for i, kind in enumerate(kinds):
        code.label(f"kind {kind}")
        _call(code, frame, head, vectors * i - 1)
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


def _call(code: Assembler, frame: Frame, head: dict[str, int], kind: int) -> None:
    """Run one block of columns, and go on to the next one's records."""
    frame.load(R9, "at")
    code.load(RCX, RBX, head["stride"])
    code.plus(RCX, R9)
    frame.store("at", RCX)
    code.load(RAX, R9)
    code.load(RCX, RBX, head["stream"])
    code.plus(RAX, RCX)
    code.plus(RAX, RBX)
    frame.load(R10, "width")
    code.times(R10, R10, 8)
    code.address(RCX, "table")
    code.plus(R10, RCX)
    code.load(R10, R10, 8 * kind)
    code.plus(R10, RBX)
    for register, other in ((RDI, R12), (RSI, R13), (RDX, R14), (RCX, R15)):
        code.move(register, other)
    frame.load(R8, "count")
    code.call(R10)
    frame.load(RBX, "head")


def _rows(
    code: Assembler, isa: Isa, kind: int, v: int, activation: str, residual: bool, masked: bool
) -> None:
    """A function: rax: records, rdi: x, rsi: y, rdx: residual, rcx: mask, r8: rows."""
    name = f"{kind} {v} "
    step, weight, other = 4 * isa.lanes, isa.registers - 1, isa.registers - 2
    sums = range(v)
    code.label(name + "row")
    code.load_word(R9, RAX, 0)
    code.load_word(R10, RAX, 4)
    if kind & _FIRST:
        _vector(code, isa, [(e.BROADCAST, 0, 0, RAX, 8), *((e.MOVE, i, 0, 0, 0) for i in sums[1:])])
        if residual:
            code.move(RBX, RDX)
            code.plus(RBX, R9)
            _vector(code, isa, [(e.ADD_MEMORY, i, i, RBX, step * i) for i in sums])
    code.plus(R9, RSI)
    if not kind & _FIRST:
        _vector(code, isa, [(e.LOAD, i, 0, R9, step * i) for i in sums])
    code.add(RAX, 16 if kind & _FIRST else 8)
    code.times(R10, R10, 8)
    code.plus(R10, RAX)  # the record's end, where the next one says which output comes then
    code.load_word(RBX, R10, 0)
    code.plus(RBX, RSI)
    for distance in range(0, step * v, 64):
        code.will_write(RBX, distance)
    _non_zeros(code, isa, v, name)
    if kind & _LAST:
        form = FORMS[activation]
        if form:
            _vector(code, isa, [(e.XOR, weight, weight, weight, 0)])
            _vector(code, isa, [(e.MAX, i, weight, i, 0) for i in sums])
        if form == 2:
            code.address(R11, "six")
            _vector(code, isa, [(e.BROADCAST, other, 0, R11, 0)])
            _vector(code, isa, [(e.MIN, i, other, i, 0) for i in sums])
        if masked:
            _vector(code, isa, [(e.AND_MEMORY, i, i, RCX, step * i) for i in sums])
    _vector(code, isa, [(e.STORE, i, 0, R9, step * i) for i in sums])
    code.add(R8, -1)
    code.jump(name + "row", "!=")
    code.ret()


def _non_zeros(code: Assembler, isa: Isa, v: int, name: str) -> None:
    """Add what the non-zeros from rax to r10 give, two in each turn.

    Few sums at a time would wait for each other; there the second non-zero has sums of its own.
    """
    weight, other = isa.registers - 1, isa.registers - 2
    own = v if v <= _FEW and 2 * v + 2 <= isa.registers else 0
    code.lea(R11, RAX, 8)
    code.compare(R11, R10)
    code.jump(name + "pairs", "<")
    code.jump(name + "end", ">")
    _one(code, isa, range(v), weight, 0)
    code.jump(name + "end")
    code.align(64)  # nothing runs into it
    code.label(name + "pairs")
    if own:
        _vector(code, isa, [(e.XOR, v + i, v + i, v + i, 0) for i in range(v)])
    code.label(name + "turn")
    _one(code, isa, range(v), weight, 0)
    _one(code, isa, range(own, own + v), other, 8)
    code.add(RAX, 16)
    code.lea(R11, RAX, 8)
    code.compare(R11, R10)
    code.jump(name + "turn", "<")
    if own:
        _vector(code, isa, [(e.ADD, i, i, v + i, 0) for i in range(v)])
        code.compare(R11, R10)
    code.jump(name + "end", ">")
    _one(code, isa, range(v), weight, 0)
    code.label(name + "end")
    code.move(RAX, R10)


def _one(code: Assembler, isa: Isa, sums: range, weight: int, distance: int) -> None:
    """Add what the non-zero at `distance` from the stream's pointer gives."""
    code.load_word(R11, RAX, distance)
    code.plus(R11, RDI)
    _vector(code, isa, [(e.BROADCAST, weight, 0, RAX, distance + 4)])
    near = range(-_AHEAD, _AHEAD * isa.registers, 4 * isa.lanes)
    _vector(
        code, isa, [(e.FMA_MEMORY, i, weight, R11, at) for i, at in zip(sums, near, strict=False)]
    )


def _vector(code: Assembler, isa: Isa, rows: list[tuple[int, int, int, int, int]]) -> None:
    columns = np.array(rows, np.int32).T.copy()
    code.raw(e.encode(e.Rows(*columns), isa.wide)[0].tobytes())
