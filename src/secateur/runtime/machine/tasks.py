"""Tasks for torch's threads that are run again and again: what a call needs is there already."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from secateur.runtime.machine.parallel import parallel, pool


class Tasks:
    """A native function over the rows of a table; see `parallel`.

    table: int64 `[n, 7]`; its numbers may be changed between calls. One call at a time.

    Example:
        >>> Tasks(0, np.zeros((0, 7), np.int64))()
    """

    def __init__(self, function: int, table: np.ndarray) -> None:
        self.function, self.table = function, np.ascontiguousarray(table, np.int64)
        self._state = (ctypes.c_int64 * 4)(0, len(table), function, self.table.ctypes.data)
        self._place = ctypes.addressof(self._state)

    def __call__(self) -> None:
        """Run all rows on as many threads as torch has now."""
        found, threads = pool(), min(torch.get_num_threads(), len(self.table))
        if found.code is None:
            parallel(self.function, self.table)
            return
        self._state[0] = 0
        if threads <= 1 or found.fork is None:
            found.drive(self._place)
        else:
            found.fork(found.code.address, self._place, threads, 0)
