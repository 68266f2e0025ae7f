"""Functions run in order, with all of their arguments."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.runtime.machine import parallel
from secateur.runtime.machine.assembler import WINDOWS
from secateur.runtime.machine.memory import Code
from secateur.runtime.machine.sequence import in_order, sequence, tasks

pytestmark = pytest.mark.skipif(sequence() is None or WINDOWS, reason="calls as on Unix")


def rows(code: Code, out: np.ndarray, values: list[int]) -> np.ndarray:
    table = np.zeros((len(values), 8), np.int64)
    table[:, 0], table[:, 1] = code.address, out.ctypes.data
    table[:, 2], table[:, 7] = values, 100
    return table


def test_rows_run_one_after_the_other(add: Code) -> None:
    out = np.zeros(1, np.int64)
    in_order(rows(add, out, [1, 2, 3]))
    assert out[0] == 306
    in_order(rows(add, out, []))
    assert out[0] == 306


def test_tables_are_tasks_of_threads(add: Code) -> None:
    code = sequence()
    assert code is not None
    outs = [np.zeros(1, np.int64) for _ in range(9)]
    tables = [rows(add, out, list(range(n))) for n, out in enumerate(outs)]
    parallel(code.address, tasks(tables))
    assert [int(out[0]) for out in outs] == [sum(range(n)) + 100 * n for n in range(9)]
