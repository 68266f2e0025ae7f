from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from secateur.runtime.machine import Tasks

CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 7)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_every_row_once_and_again(rows: int) -> None:
    seen: list[tuple[int, ...]] = []
    native = CALL(lambda *numbers: seen.append(numbers))
    table = np.arange(7 * rows, dtype=np.int64).reshape(rows, 7)
    tasks = Tasks(ctypes.cast(native, ctypes.c_void_p).value or 0, table)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for more in (0, 100):
            tasks.table += more
            seen.clear()
            tasks()
            assert sorted(seen) == [tuple(row) for row in tasks.table.tolist()]
    finally:
        torch.set_num_threads(threads)
