"""The functions that a looping kernel consists of: rows of a tile, and copies of columns."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from secateur.runtime.emit import encode as e
from secateur.runtime.emit.isa import FORMS, Isa
from secateur.runtime.emit.stream import HEAD
from secateur.runtime.machine.assembler import (
    R8,
    R9,
    R10,
    R11,
    R12,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    Assembler,
)

AHEAD = 128  # bytes that the input's pointer is ahead, so that one byte reaches both ways
FIRST, LAST = 1, 2  # blocks of columns that begin and end the sums
_FEW = 5  # vectors, with which multiply-adds that wait for each other leave the units idle


def copies(code: Assembler, isa: Isa, v: int, vectors: int, ahead: bool) -> None:
    """A function: r9: a list of columns, r12: x, rsi: where the copies go, `vectors` apart.

    ahead: the lines behind those that are copied are asked for; the next tile copies them.
    """
    step = 4 * isa.lanes
    name = f"copy {v} next"
    code.load_word(R8, R9, 0)
    code.label(name)
    code.load_word(R11, R9, 4)
    code.plus(R11, R12)
    _vector(code, isa, [(e.LOAD, i, 0, R11, step * i - AHEAD) for i in range(v)])
    _vector(code, isa, [(e.STORE, i, 0, RSI, step * i) for i in range(v)])
    for distance in range(step * v, 2 * step * v if ahead else 0, 64):
        code.will_read(R11, distance - AHEAD)
    code.add(R9, 4)
    code.add(RSI, step * vectors)
    code.add(R8, -1)
    code.jump(name, "!=")
    code.ret()


def rows(
    code: Assembler,
    isa: Isa,
    kind: int,
    v: int,
    activation: str,
    residual: bool,
    masked: bool,
    ahead: bool,
    near: bool,
) -> None:
    """A function: rax: records, rdi: x, rsi: y, rdx: residual, rcx: mask, r8: rows.

    ahead: the lines of the output that the next tile writes are asked for. near: of the records.
    """
    name = f"{kind} {v} "
    step, weight, other = 4 * isa.lanes, isa.registers - 1, isa.registers - 2
    sums = range(v)
    code.label(name + "row")
    code.load_word(R9, RAX, 0)
    code.load_word(R10, RAX, 4)
    code.load_word(R11, RAX, 8)
    code.plus(R11, RSI)
    for distance in range(0, step * v, 64):
        code.will_write(R11, distance)
    bias = 4 * HEAD
    if kind & FIRST:
        begin = [(e.BROADCAST, 0, 0, RAX, bias), *((e.MOVE, i, 0, 0, 0) for i in sums[1:])]
        _vector(code, isa, begin)
        if residual:
            code.move(RBX, RDX)
            code.plus(RBX, R9)
            _vector(code, isa, [(e.ADD_MEMORY, i, i, RBX, step * i) for i in sums])
    code.plus(R9, RSI)
    if not kind & FIRST:
        _vector(code, isa, [(e.LOAD, i, 0, R9, step * i) for i in sums])
    code.add(RAX, bias + 4 if kind & FIRST else bias)
    code.plus(R10, RAX)  # the record's end
    _non_zeros(code, isa, v, name, near)
    if kind & LAST:
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
    for distance in range(step * v, 2 * step * v if ahead and kind & FIRST else 0, 64):
        code.will_write(R9, distance)
    code.add(R8, -1)
    code.jump(name + "row", "!=")
    code.ret()


def _non_zeros(code: Assembler, isa: Isa, v: int, name: str, near: bool) -> None:
    """Add what the non-zeros from rax to r10 give, two in each turn.

    Few sums at a time would wait for each other; there the second non-zero has sums of its own.
    """
    weight, other, both = (isa.registers - n for n in (1, 2, 3))
    together = near and not isa.wide  # loads are what it waits for, and there is room for shuffles
    own = v if v <= _FEW and 2 * v + 2 + together <= isa.registers else 0
    pair = 12 if near else 16
    code.lea(R11, RAX, 8)
    code.compare(R11, R10)
    code.jump(name + "pairs", "<")
    code.jump(name + "end", ">")
    _vector(code, isa, [(e.BROADCAST, weight, 0, RAX, 4)])
    _one(code, isa, range(v), weight, 0, near)
    code.jump(name + "end")
    code.align(64)  # nothing runs into it
    code.label(name + "pairs")
    if own:
        _vector(code, isa, [(e.XOR, v + i, v + i, v + i, 0) for i in range(v)])
    code.label(name + "turn")
    if together:
        parts = [(e.EVEN, weight, 0, both, 0), (e.ODD, other, 0, both, 0)]
        _vector(code, isa, [(e.BROADCAST_TWO, both, 0, RAX, 4), *parts])
    else:
        values = [(e.BROADCAST, weight, 0, RAX, 4), (e.BROADCAST, other, 0, RAX, pair - 4)]
        _vector(code, isa, values)
    _one(code, isa, range(v), weight, 0, near)
    _one(code, isa, range(own, own + v), other, 2 if near else 8, near)
    code.add(RAX, pair)
    code.lea(R11, RAX, 8)
    code.compare(R11, R10)
    code.jump(name + "turn", "<")
    if own:
        _vector(code, isa, [(e.ADD, i, i, v + i, 0) for i in range(v)])
        code.compare(R11, R10)
    code.jump(name + "end", ">")
    _vector(code, isa, [(e.BROADCAST, weight, 0, RAX, 4)])
    _one(code, isa, range(v), weight, 0, near)
    code.label(name + "end")
    code.move(RAX, R10)


def _one(code: Assembler, isa: Isa, sums: range, weight: int, distance: int, near: bool) -> None:
    """Add what a non-zero gives; `distance`: from the stream's pointer to where it says its own."""
    if near:
        code.load_half(R11, RAX, distance)
        code.lea_eight(R11, RDI, R11)
    else:
        code.load_word(R11, RAX, distance)
        code.plus(R11, RDI)
    reach = range(-AHEAD, AHEAD * isa.registers, 4 * isa.lanes)
    _vector(
        code, isa, [(e.FMA_MEMORY, i, weight, R11, at) for i, at in zip(sums, reach, strict=False)]
    )


def _vector(code: Assembler, isa: Isa, rows: list[tuple[int, int, int, int, int]]) -> None:
    code.raw(_encoded(isa.wide, tuple(rows)))


@lru_cache(maxsize=2048)
def _encoded(wide: bool, rows: tuple[tuple[int, int, int, int, int], ...]) -> bytes:
    """The bytes of a few instructions: most are asked for by many widths and forms of loops."""
    columns = np.array(rows, np.int32).T.copy()
    return e.encode(e.Rows(*columns), wide)[0].tobytes()
