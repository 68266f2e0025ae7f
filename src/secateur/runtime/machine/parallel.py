"""Native functions over many ranges, on the threads that torch has already."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.core.errors import InputError
from secateur.runtime.machine.assembler import (
    R8,
    R9,
    RAX,
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
_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * ARGUMENTS)


@dataclass(frozen=True)
class Pool:
    """Where the threads come from.

    name: "openmp" (torch's own pool) or "serial" (one thread). reason: why it is serial, or "".
    """

    name: str
    reason: str = ""
    fork: Any = field(default=None, repr=False, compare=False)
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
    except AttributeError:
        reason = "torch's OpenMP runtime has no GOMP_parallel"
        return Pool("serial", reason, code=code, drive=drive)
    fork.restype = None
    fork.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return Pool("openmp", fork=fork, code=code, drive=drive)


def parallel(function: int, tasks: np.ndarray) -> None:
    """Call the native function at an address once for each row of `tasks`, int64 `[n, 7]`.

    The threads are `torch.get_num_threads()` of torch's pool, and each takes the next task when it
    is done with one; give as many tasks as balance asks for, the largest first. Returns when all
    are done. Tasks may not depend on each other. The GIL is released; several Python threads may
    call at once. With one thread or one task, no pool is asked.
    """
    if tasks.dtype != np.int64 or tasks.ndim != 2 or tasks.shape[1] != ARGUMENTS:
        raise InputError(f"tasks are {tasks.dtype} {tasks.shape}, not int64 [n, {ARGUMENTS}]")
    tasks = np.ascontiguousarray(tasks)
    found = pool()
    if found.code is None:
        call = _SIGNATURE(function)
        for task in tasks.tolist():
            call(*task)
        return
    state = (ctypes.c_int64 * 4)(0, len(tasks), function, tasks.ctypes.data)
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1 or found.fork is None:
        found.drive(ctypes.addressof(state))
    else:
        found.fork(found.code.address, ctypes.addressof(state), threads, 0)


def _torch_library() -> ctypes.CDLL | None:
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None


def _driver() -> bytes:
    """`void drive(int64 state[4])`: take tasks from state (next, count, function, table) and run.

    Each thread of the pool runs it; a task's number is taken with one locked addition.
    """
    code = Assembler()
    home = 32 if WINDOWS else 0  # Windows has the callee spill its arguments above them
    first = (RCX, RDX, R8, R9) if WINDOWS else (RDI, RSI, RDX, RCX, R8, R9)
    stack = home + 8 * (ARGUMENTS - len(first))
    stack += -stack % 16
    code.push(RBX)  # and the stack is at a multiple of 16, as a call wants it
    code.lea(RSP, RSP, -stack)
    code.move(RBX, first[0])
    code.label("next")
    code.set(RAX, 1)
    code.take(RAX, RBX, 0)
    code.load(R8, RBX, 8)
    code.compare(RAX, R8)
    code.jump("done", ">=")
    code.times(RAX, RAX, 8 * ARGUMENTS)
    code.load(R8, RBX, 24)
    code.plus(RAX, R8)
    for i in range(len(first), ARGUMENTS):
        code.load(R8, RAX, 8 * i)
        code.store(RSP, home + 8 * (i - len(first)), R8)
    for i, register in enumerate(first):
        code.load(register, RAX, 8 * i)
    code.load(RAX, RBX, 16)
    code.call(RAX)
    code.jump("next")
    code.label("done")
    code.lea(RSP, RSP, stack)
    code.pop(RBX)
    code.ret()
    return code.finish()
