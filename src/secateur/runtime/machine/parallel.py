"""Native functions over many ranges, on the threads that torch has already.

Each thread begins with its own share of the tasks, the same one in every round, and then helps the
others: what it wrote in one round is in its own cache when it reads it in the next. Between two
processors that share no cache, a line takes as long as hundreds of operations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.core.errors import InputError
from secateur.runtime.machine.assembler import (
    R8,
    R9,
    R12,
    R13,
    R14,
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

ARGUMENTS = 7  # of the functions that are run: a kernel's addresses and ranges
Round = tuple[int, np.ndarray]
"""A native function's address, and a table of its arguments, int64 `[n, 7]`: a task a row."""
_LINE = 8  # numbers of a cache line: threads that count apart write lines of their own
_REST = (0,) * (_LINE - 4)
_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * ARGUMENTS)


@dataclass(frozen=True)
class Pool:
    """Where the threads come from.

    name: "openmp" (torch's own pool) or "serial" (one thread). reason: why it is serial, or "".
    """

    name: str
    reason: str = ""
    fork: Any = field(default=None, repr=False, compare=False)
    barrier: int = field(default=0, repr=False, compare=False)
    number: int = field(default=0, repr=False, compare=False)
    code: Code | None = field(default=None, repr=False, compare=False)
    drive: Any = field(default=None, repr=False, compare=False)


@lru_cache(maxsize=1)
def pool() -> Pool:
    """The pool of this process: that of the OpenMP runtime which torch itself is linked with.

    Example:
        >>> pool().name in ("openmp", "serial")
        True
    """
    if machine() != "x86-64":
        return Pool("serial", f"no driver for {machine()}")
    try:
        code = Code(_driver())
    except Forbidden as error:
        return Pool("serial", error.message)
    drive = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address)
    library = _torch_library()
    if library is None:
        return Pool("serial", "torch's library was not found", code=code, drive=drive)
    try:
        # The search goes through what the library depends on: no other OpenMP runtime is found.
        fork = library.GOMP_parallel
        barrier, number = map(_address, (library.GOMP_barrier, library.omp_get_thread_num))
    except AttributeError:
        reason = "torch's OpenMP runtime has no GOMP_parallel"
        return Pool("serial", reason, code=code, drive=drive)
    fork.restype = None
    fork.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return Pool("openmp", "", fork, barrier, number, code, drive)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class Rounds:
    """Native functions over the rows of tables, one table after the other.

    A round's function is called once for each row of its table. The threads are
    `torch.get_num_threads()` of torch's pool. Each begins with its part of the rows, in order, and
    takes over others' when it is done. Tasks of a round may not depend on each other; a round
    begins when the one before is done. The threads stay together from the first round to the last,
    as to wake them takes longer than many a layer. With one thread, or one task, no pool is asked.
    The GIL is released. One call at a time.

    Example:
        >>> Rounds([(0, np.zeros((0, 7), np.int64)), (0, np.zeros((0, 7), np.int64))])()
    """

    def __init__(self, rounds: Sequence[Round]) -> None:
        for _, table in rounds:
            if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != ARGUMENTS:
                form = f"{table.dtype} {table.shape}"
                raise InputError(f"tasks are {form}, not int64 [n, {ARGUMENTS}]")
        self.tables = [np.ascontiguousarray(table) for _, table in rounds]
        self._functions = [function for function, _ in rounds]
        self._most = max(map(len, self.tables), default=0)
        parts, found = max(1, min(torch.get_num_threads(), self._most)), pool()
        lines = [(len(rounds), parts, found.barrier, found.number)]
        for at, table in zip(self._functions, self.tables, strict=True):
            edges = [len(table) * part // parts for part in range(parts + 1)]
            lines += [(at, table.ctypes.data, 0, 0), *((*part, 0, 0) for part in pairwise(edges))]
        self._first = np.array([(*line, *_REST) for line in lines], np.int64)
        self._state = self._first.copy()
        self._place = self._state.ctypes.data

    def __call__(self) -> None:
        """Run all rows on as many threads as torch has now."""
        found, threads = pool(), min(torch.get_num_threads(), self._most)
        if found.code is None:
            self._call()
        elif self._most:
            self._state[:] = self._first  # nothing of any round is taken yet
            if threads <= 1 or found.fork is None:
                found.drive(self._place)
            else:
                found.fork(found.code.address, self._place, threads, 0)

    def _call(self) -> None:
        """Run all rows through Python, where no code of our own may be run."""
        for function, table in zip(self._functions, self.tables, strict=True):
            call = _SIGNATURE(function)
            for row in table.tolist():
                call(*row)


def pieces(threads: int) -> int:
    """Into how many tasks work is cut for so many threads: one that is late or slow does fewer.

    Example:
        >>> pieces(1), pieces(2)
        (1, 8)
    """
    return 4 * threads if threads > 1 else 1


class Tasks(Rounds):
    """One native function over the rows of a table, whose numbers may be changed between calls.

    Example:
        >>> Tasks(0, np.zeros((0, 7), np.int64))()
    """

    def __init__(self, function: int, table: np.ndarray) -> None:
        super().__init__([(function, table)])
        self.table = self.tables[0]


def parallel(function: int, tasks: np.ndarray) -> None:
    """Run a native function over the rows of a table once; see `Rounds`.

    Several Python threads may call at once.
    """
    Tasks(function, tasks)()


def _torch_library() -> ctypes.CDLL | None:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None


def _driver() -> bytes:
    """`void drive(int64 state[][8])`: run the tasks of one round after the other.

    state: count of rounds, parts, and the addresses of a barrier and of what numbers threads; then,
    for each round, function and table, and (next, end) of each part. Every thread of the pool runs
    it. A task's number is taken with one locked addition; all wait between two rounds.
    """
    code = Assembler()
    home = 32 if WINDOWS else 0  # Windows has the callee spill its arguments above them
    first = (RCX, RDX, R8, R9) if WINDOWS else (RDI, RSI, RDX, RCX, R8, R9)
    kept = (RBX, RBP, R12, R13, R14)
    state = home + 8 * (ARGUMENTS - len(first))  # where it is kept on the stack
    own = state + 8
    stack = own + 8
    stack += -stack % 16  # five pushes and this leave the stack as a call wants it
    code.push(*kept)
    code.lea(RSP, RSP, -stack)
    code.store(RSP, state, first[0])
    code.load(RBP, first[0])  # rounds that are left
    code.load(R12, first[0], 8)  # parts
    code.lea(RBX, first[0], 8 * _LINE)  # this round
    code.load(R8, first[0], 24)
    code.set(RAX, 0)
    code.compare_to(R8, 0)
    code.jump("numbered", "==")
    code.call(R8)
    code.compare(RAX, R12)
    code.jump("numbered", "<")
    code.set(RAX, 0)  # more threads than parts: they help the first one
    code.label("numbered")
    code.store(RSP, own, RAX)
    code.label("round")
    code.load(R13, RSP, own)  # whose part it works on
    code.move(R14, R12)  # parts that it has not seen to the end
    code.label("next")
    code.times(R8, R13, 8 * _LINE)
    code.plus(R8, RBX)
    code.set(RAX, 1)
    code.take(RAX, R8, 8 * _LINE)
    code.load(R8, R8, 8 * _LINE + 8)
    code.compare(RAX, R8)
    code.jump("taken", ">=")
    code.times(RAX, RAX, 8 * ARGUMENTS)
    code.load(R8, RBX, 8)
    code.plus(RAX, R8)
    for i in range(len(first), ARGUMENTS):
        code.load(R8, RAX, 8 * i)
        code.store(RSP, home + 8 * (i - len(first)), R8)
    for i, register in enumerate(first):
        code.load(register, RAX, 8 * i)
    code.load(RAX, RBX)
    code.call(RAX)
    code.jump("next")
    code.label("taken")
    code.add(R13, 1)
    code.compare(R13, R12)
    code.jump("inside", "<")
    code.set(R13, 0)
    code.label("inside")
    code.add(R14, -1)
    code.jump("next", ">")
    code.add(RBP, -1)
    code.jump("done", "<=")
    code.times(R8, R12, 8 * _LINE)
    code.lea(RBX, RBX, 8 * _LINE)
    code.plus(RBX, R8)
    code.load(R8, RSP, state)
    code.load(RAX, R8, 16)
    code.compare_to(RAX, 0)
    code.jump("round", "==")
    code.call(RAX)
    code.jump("round")
    code.label("done")
    code.lea(RSP, RSP, stack)
    code.pop(*kept)
    code.ret()
    return code.finish()
