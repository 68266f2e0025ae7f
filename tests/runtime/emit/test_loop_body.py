"""The functions of a looping kernel, one for each width, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from interpreter import RETURN, Machine, Region

from secateur.runtime.emit.isa import AVX2, AVX512, Isa
from secateur.runtime.emit.loop_body import AHEAD, copies
from secateur.runtime.machine.assembler import Assembler


@pytest.mark.parametrize("isa", [AVX2, AVX512], ids=lambda isa: isa.name)
@pytest.mark.parametrize("v", [1, 3])
@pytest.mark.parametrize("ahead", [False, True])
def test_columns_are_copied_one_after_the_other(isa: Isa, v: int, ahead: bool) -> None:
    code = Assembler()
    copies(code, isa, v, 3, ahead)
    floats = isa.lanes * 3
    x = np.arange(500, dtype=np.float32)
    out = np.full((4, floats), -1, np.float32)
    columns = np.array([4, 0, 36, 400, 1000], np.int32)
    stack = np.zeros(64, np.uint8)
    stack[:8] = np.frombuffer(RETURN.to_bytes(8, "little"), np.uint8)
    buffers = [np.frombuffer(code.finish(), np.uint8), x, out, columns, stack]
    regions = [Region(b.ctypes.data, b.reshape(-1).view(np.uint8)) for b in buffers]
    machine = Machine(regions)
    machine.general.update(rsp=stack.ctypes.data, r9=columns.ctypes.data, rsi=out.ctypes.data)
    machine.general["r12"] = x.ctypes.data + AHEAD
    machine.run(buffers[0].ctypes.data)
    for row, column in zip(out, columns[1:] // 4, strict=True):
        np.testing.assert_array_equal(row[: v * isa.lanes], x[column : column + v * isa.lanes])
        assert (row[v * isa.lanes :] == -1).all()
