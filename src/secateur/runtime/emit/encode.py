"""Vector instructions to bytes, many at once: VEX (AVX2) and EVEX (AVX-512) templates in numpy.

An instruction is a row of small numbers: operation, registers, base and distance. All rows of a
kernel become a table of bytes, columns that a row does not use are dropped, and what is left is
code. Only what the kernels need is here: memory operands are `[base + distance]`, without an index.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from secateur.runtime.machine.assembler import R8, RAX, RBX, RCX, RDI, RDX, RSI

# What points where inside a kernel.
WEIGHTS, X, COLUMN, Y, RESIDUAL, MASK, TILES = RAX, RDI, RBX, RSI, RDX, RCX, R8

(
    LOAD,  # reg = [m]
    STORE,  # [m] = reg
    BROADCAST,  # every lane of reg = the float [m]
    FMA,  # reg += src * rm
    FMA_MEMORY,  # reg += src * [m]
    FMA_BROADCAST,  # reg += src * the float [m]; AVX-512 only
    ADD_MEMORY,  # reg = src + [m]
    AND_MEMORY,  # reg = src & [m]
    MAX,  # reg = max(src, rm); rm where one is NaN
    MIN,  # reg = min(src, rm)
    XOR,  # reg = src ^ rm
    ADD,  # reg = src + rm
    MOVE,  # reg = rm
    BROADCAST_TWO,  # every even lane of reg = the float [m], every odd one the next; AVX2 only
    EVEN,  # every lane of reg = the even one of its pair in rm
    ODD,  # every lane of reg = the odd one
) = range(16)
_VECTOR = 16
# operation: map (1: 0F, 2: 0F 38), prefix (0: none, 1: 66, 2: F3), opcode, has a memory operand.
# The logical ones are those of AVX-512F, whose float spellings came later, with AVX-512DQ.
_VEX = [
    *((1, 0, 0x10, 1), (1, 0, 0x11, 1), (2, 1, 0x18, 1), (2, 1, 0xB8, 0), (2, 1, 0xB8, 1)),
    *((2, 1, 0xB8, 1), (1, 0, 0x58, 1), (1, 0, 0x54, 1), (1, 0, 0x5F, 0), (1, 0, 0x5D, 0)),
    *((1, 0, 0x57, 0), (1, 0, 0x58, 0), (1, 0, 0x28, 0)),
    *((2, 1, 0x19, 1), (1, 2, 0x12, 0), (1, 2, 0x16, 0)),
]
_EVEX = [*_VEX[:AND_MEMORY], (1, 1, 0xDB, 1), *_VEX[MAX:XOR], (1, 1, 0xEF, 0), *_VEX[ADD:]]

# Scalar instructions: bytes, then a distance or a number of 32 bits.
_SCALAR = {
    "add weights": "48 05",  # add rax, n
    "add x": "48 81 c7",  # add rdi, n
    "add y": "48 81 c6",  # add rsi, n
    "add residual": "48 81 c2",  # add rdx, n
    "add mask": "48 81 c1",  # add rcx, n
    "count tiles": "49 81 c0",  # add r8, n
    "count groups": "49 81 c1",  # add r9, n
    "lea weights": "48 8d 05",  # lea rax, [rip + n]
    "lea x": "49 8d bc 24",  # lea rdi, [r12 + n]
    "lea y": "49 8d b5",  # lea rsi, [r13 + n]
    "lea residual": "49 8d 96",  # lea rdx, [r14 + n]
    "lea mask": "49 8d 8f",  # lea rcx, [r15 + n]
    "lea tiles": "4d 8d 83",  # lea r8, [r11 + n]
    "lea column": "48 8d 9f",  # lea rbx, [rdi + n]
    "will read x": "0f 18 97",  # prefetcht1 [rdi + n]
    "will write y": "0f 0d 8e",  # prefetchw [rsi + n]
    "jump if zero": "0f 84",
    "jump if not": "0f 85",
}
SCALAR = {name: _VECTOR + i for i, name in enumerate(_SCALAR)}


@dataclass
class Rows:
    """Instructions as columns: `op`, `reg`, `src`, `rm` (a register or a base), `distance`."""

    op: np.ndarray
    reg: np.ndarray
    src: np.ndarray
    rm: np.ndarray
    distance: np.ndarray

    @classmethod
    def empty(cls, n: int) -> Rows:
        """Room for `n` instructions."""
        return cls(*(np.zeros(n, np.int32) for _ in fields(cls)))

    def put(self, at: np.ndarray, op: int, reg=0, src=0, rm=0, distance=0) -> None:
        """Write one kind of instruction to many places."""
        self.op[at], self.reg[at], self.src[at], self.rm[at] = op, reg, src, rm
        self.distance[at] = distance


def encode(rows: Rows, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all instructions, and where each one ends; `wide` is AVX-512.

    Distances are in bytes. Those that fit one byte take one (AVX-512 counts it in vectors, or in
    floats of a broadcast). Scalar instructions have four always, so that they can be patched.

    Example:
        >>> rows = Rows.empty(1)
        >>> rows.put(0, BROADCAST, reg=9, rm=WEIGHTS, distance=-4)
        >>> encode(rows, wide=False)[0].tobytes().hex(" ")
        'c4 62 7d 18 48 fc'
        >>> encode(rows, wide=True)[0].tobytes().hex(" ")
        '62 72 7d 48 18 48 ff'
    """
    tables = np.array(_EVEX if wide else _VEX, np.int32)
    scalar = rows.op >= _VECTOR
    vector = np.where(scalar, 0, rows.op)
    space, prefix, opcode, memory = tables.T[:, vector]
    memory = memory.astype(bool)
    head = 6 if wide else 5  # columns before the distance
    table = np.empty((len(vector), head + 4), np.uint8)
    keep = np.ones(table.shape, bool)

    reg, src, rm = rows.reg, rows.src, rows.rm
    step: int | np.ndarray = 1
    if wide:
        single = (vector == FMA_BROADCAST).astype(np.int32)
        step = np.where(single | (vector == BROADCAST), 4, 64).astype(np.int32)
        table[:, 0] = 0x62
        high = np.where(memory, 0, rm >> 4)  # a fifth bit, of registers only
        table[:, 1] = _not(reg >> 3) << 7 | _not(high) << 6 | _not(rm >> 3) << 5 | space
        table[:, 1] |= (_not(reg >> 4) << 4).astype(np.uint8)
        table[:, 2] = (~src & 15) << 3 | 4 | prefix
        table[:, 3] = 2 << 5 | single << 4 | _not(src >> 4) << 3
    else:
        short = (space == 1) & (rm < 8)  # two bytes of prefix are enough
        table[:, 0] = np.where(short, 0xC5, 0xC4)
        table[:, 1] = _not(reg >> 3) << 7 | 1 << 6 | _not(rm >> 3) << 5 | space
        keep[:, 1] = ~short
        table[:, 2] = np.where(short, _not(reg >> 3) << 7, 0) | (~src & 15) << 3 | 1 << 2 | prefix
    near = memory & (rows.distance % step == 0)
    near &= (rows.distance >= -128 * step) & (rows.distance <= 127 * step)
    none = memory & (rows.distance == 0)
    mode = np.where(memory, np.where(none, 0x00, np.where(near, 0x40, 0x80)), 0xC0)
    table[:, head - 2] = opcode
    table[:, head - 1] = mode | (reg & 7) << 3 | rm & 7
    distance = np.where(near, rows.distance // step, rows.distance).astype("<i4")
    table[:, head:] = distance.view(np.uint8).reshape(-1, 4)
    keep[:, head] = memory & ~none
    keep[:, head + 1 :] = (memory & ~near)[:, None]

    at = np.flatnonzero(scalar)
    for number, text in enumerate(_SCALAR.values(), start=_VECTOR):
        here = at[rows.op[at] == number]
        code = bytes.fromhex(text)
        table[here, head - len(code) : head] = np.frombuffer(code, np.uint8)
        keep[here, : head - len(code)] = False
        keep[here, head - len(code) :] = True
        table[here, head:] = rows.distance[here].astype("<i4")[:, None].view(np.uint8)
    return table[keep], np.cumsum(keep.sum(1))


def _not(bit: np.ndarray) -> np.ndarray:
    return (bit & 1) ^ 1
