"""The loops around a kernel's segments: from the contract's arguments to runs of segments.

Rows are split into runs of groups whose code stays in the level-2 cache. For each run, positions
are worked through in blocks of a few tiles, and for each block of positions the segments of all
column blocks follow each other, so that the input that they read stays in the level-1 cache.
"""

from __future__ import annotations

from secateur.runtime.emit.frame import Frame
from secateur.runtime.machine.assembler import (
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RCX,
    Assembler,
)


def driver(
    *, rows: int, step: int, tiles: int, groups: int, together: int, masked: bool, windows: bool
) -> Assembler:
    """The function of the contract; `table` (words: where segments are) and `mask` are labels.

    rows: of a group. step: positions of a tile. tiles: that go through a segment at once. groups:
    of the layer. together: groups of a run. A segment finds its pointers in r12 (x), r13 (y), r14
    (residual) and r15 (mask), the tiles in r11, and how many groups are to run in r9; of these it
    changes r9 only.
    """
    code = Assembler()
    frame = Frame(code, windows, ("tiles", "count"))
    load, store = frame.load, frame.store
    load(R10, "begin")
    load(RAX, "end")
    code.minus(RAX, R10)
    code.set(RCX, step)
    code.divide(RCX)
    store("tiles", RAX)
    code.times(R10, R10, 4)
    for name in ("x", "y", "residual"):
        load(RAX, name)
        code.plus(RAX, R10)
        store(name, RAX)
    if masked:
        code.address(RAX, "mask")
        code.plus(RAX, R10)
    store("begin", RAX)  # from here on the mask's address
    load(RAX, "last")
    load(RCX, "first")
    code.compare(RCX, RAX)
    code.jump("done", ">=")
    code.set(RCX, rows)
    code.add(RAX, rows - 1)
    code.divide(RCX)
    store("last", RAX)
    load(RAX, "first")
    code.divide(RCX)

    code.label("run")  # rax: its first group
    store("first", RAX)
    load(RCX, "last")
    code.minus(RCX, RAX)
    code.compare_to(RCX, 0)
    code.jump("done", "<=")
    _at_most(code, RCX, together, "whole run")
    store("count", RCX)
    for register, name in ((R12, "x"), (R13, "y"), (R14, "residual"), (R15, "begin")):
        load(register, name)
    load(RBP, "tiles")

    code.label("positions")
    code.compare_to(RBP, 0)
    code.jump("next run", "<=")
    code.move(R11, RBP)
    _at_most(code, R11, tiles, "whole block")
    load(R10, "first")
    code.times(R10, R10, 4)
    code.address(RAX, "table")
    code.plus(R10, RAX)
    code.label("columns")
    code.load_word(RAX, R10)
    code.address(RCX, "table")
    code.plus(RAX, RCX)
    load(R9, "count")
    code.call(RAX)
    code.add(R10, 4 * groups)
    code.address(RAX, "table end")
    code.compare(R10, RAX)
    code.jump("columns", "<")
    for register in (R12, R13, R14, R15):
        code.add(register, 4 * step * tiles)
    code.add(RBP, -tiles)
    code.jump("positions")

    code.label("next run")
    load(RAX, "first")
    code.add(RAX, together)
    code.jump("run")

    code.label("done")
    frame.leave()
    code.align(64)
    return code


def _at_most(code: Assembler, register: int, most: int, label: str) -> None:
    code.compare_to(register, most)
    code.jump(label, "<=")
    code.set(register, most)
    code.label(label)
