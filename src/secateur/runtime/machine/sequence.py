"""Native functions one after the other, without Python in between."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from secateur.runtime.machine.assembler import (
    R8,
    R9,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    WINDOWS,
    Assembler,
)
from secateur.runtime.machine.memory import Code, Forbidden, machine
from secateur.runtime.machine.parallel import ARGUMENTS

WORDS = 1 + ARGUMENTS  # of a row: a function, and what it is given


@lru_cache(maxsize=1)
def sequence() -> Code | None:
    """A native function that runs others: `void f(int64 table[count][8], int64 count)`.

    None where no code may be run.
    """
    if machine() != "x86-64":
        return None
    code = Assembler()
    home = 32 if WINDOWS else 0  # Windows has the callee spill its arguments above them
    first = (RCX, RDX, R8, R9) if WINDOWS else (RDI, RSI, RDX, RCX, R8, R9)
    stack = home + 8 * (ARGUMENTS - len(first))
    stack += (8 - stack) % 16  # two pushes and this leave the stack as a call wants it
    code.push(RBX, RBP)
    code.lea(RSP, RSP, -stack)
    code.move(RBX, first[0])
    code.move(RBP, first[1])
    code.label("next")
    code.compare_to(RBP, 0)
    code.jump("done", "<=")
    for i in range(len(first), ARGUMENTS):
        code.load(RAX, RBX, 8 * (1 + i))
        code.store(RSP, home + 8 * (i - len(first)), RAX)
    for i, register in enumerate(first):
        code.load(register, RBX, 8 * (1 + i))
    code.load(RAX, RBX)
    code.call(RAX)
    code.add(RBX, 8 * WORDS)
    code.add(RBP, -1)
    code.jump("next")
    code.label("done")
    code.lea(RSP, RSP, stack)
    code.pop(RBX, RBP)
    code.ret()
    try:
        return Code(code.finish())
    except Forbidden:
        return None


def tasks(tables: list[np.ndarray]) -> np.ndarray:
    """Tasks for `machine.parallel` with `sequence`: each one runs a table; they must stay alive."""
    found = np.zeros((len(tables), ARGUMENTS), np.int64)
    found[:, 0] = [table.ctypes.data for table in tables]
    found[:, 1] = [len(table) for table in tables]
    return found


def in_order(table: np.ndarray) -> None:
    """Run int64 `[n, 8]`, a function and its arguments a row.

    Example:
        >>> in_order(np.zeros((0, 8), np.int64))
    """
    code = sequence()
    if code is not None:
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2)(code.address)
        call(table.ctypes.data, len(table))
        return
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * ARGUMENTS)
    for function, *arguments in table.tolist():
        signature(function)(*arguments)
