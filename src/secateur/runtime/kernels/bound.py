"""Kernels of LLVM's bound to a layer's numbers: what makes code for a kind a kernel for one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from secateur.runtime.kernels import llvm

ARGUMENTS = (
    *("ptr x", "ptr y", "ptr residual"),
    *("i64 begin", "i64 end", "i64 first", "i64 last"),
)
CONTEXT = "ptr nest context"  # the first argument of the code, which callers do not give
_CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 4)


class BoundKernel:
    """A function of `planes.Kernel`, with a context of its own: addresses of arrays, then numbers.

    name: of the kernel; function: in the code that `source` is. bytes: of the arrays.
    """

    def __init__(
        self,
        name: str,
        source: str,
        function: str,
        arrays: Sequence[np.ndarray],
        numbers: Sequence[int],
    ) -> None:
        self.name = name
        code = llvm.load(source, llvm.host())
        self._held = tuple(np.ascontiguousarray(array) for array in arrays)
        self._context = np.array([*(a.ctypes.data for a in self._held), *numbers], np.int64)
        self.bytes = sum(array.nbytes for array in self._held) + self._context.nbytes
        thunk = llvm.bind(ARGUMENTS, code.address(function), self._context.ctypes.data)
        self._code = (code, thunk)
        self.address = thunk.address
        self._call = _CALL(self.address)

    def __call__(
        self, x: int, y: int, residual: int, begin: int, end: int, first: int, last: int
    ) -> None:
        """Run on addresses of float32 buffers."""
        self._call(x, y, residual, begin, end, first, last)
