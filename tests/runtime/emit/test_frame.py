"""A function finds its arguments in either calling convention, and its own numbers beside them."""

from __future__ import annotations

import numpy as np
import pytest
from interpreter import call

from secateur.runtime.emit.frame import ARGUMENTS, Frame
from secateur.runtime.machine.assembler import R12, RAX, RBP, RBX, Assembler


@pytest.mark.parametrize("windows", [False, True], ids=["unix", "windows"])
def test_arguments_and_own_numbers(windows: bool) -> None:
    code = Assembler()
    frame = Frame(code, windows, ("double", "last one"))
    assert len(set(frame.slots.values())) == len(ARGUMENTS) + 2
    code.set(R12, 0)
    for place, name in enumerate(ARGUMENTS):
        frame.load(RAX, name)
        if name != "x":
            code.times(RAX, RAX, place + 1)
            code.plus(R12, RAX)
    code.plus(R12, R12)
    frame.store("double", R12)
    code.set(RBP, 5)
    code.set(RBX, 7)
    frame.store("last one", RBP)
    frame.load(R12, "double")
    frame.load(RBX, "last one")
    code.plus(R12, RBX)
    frame.load(RAX, "x")
    code.store(RAX, 0, R12)
    frame.leave()
    out = np.zeros(2, np.float32)
    numbers = [11, 13, 17, 19, 23, 29]
    call(code.finish(), 0, [out], [out.ctypes.data, *numbers], windows)
    expected = 2 * sum((i + 2) * number for i, number in enumerate(numbers)) + 5
    assert out.view(np.int64)[0] == expected
