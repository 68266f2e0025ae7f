"""Buffers between pages that may not be touched: one float too far ends the process."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np
import pytest

_LIBC = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)


def guarded(count: int, *, at_end: bool, dtype: type = np.float32) -> np.ndarray:
    """`count` zeros right before a forbidden page (or right behind one)."""
    if _LIBC is None:
        pytest.skip("needs mprotect")
    page = mmap.PAGESIZE
    size = count * np.dtype(dtype).itemsize
    inside = max(1, -(-size // page)) * page
    memory = mmap.mmap(-1, inside + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for place in (address, address + page + inside):
        if _LIBC.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = page + (inside - size if at_end else 0)
    return np.frombuffer(memory, dtype, count, start)
