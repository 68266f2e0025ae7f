"""A kernel is code for a kind of layers, and the numbers of one."""

from __future__ import annotations

import numpy as np

from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function


def source() -> str:
    """`y[:n] = values[:n]`, n and values being the kernel's own."""
    f = Function("put", [CONTEXT, *ARGUMENTS], lanes=1)
    values, n = f.read("%context", 0, "ptr"), f.read("%context", 1)
    with f.loop(0, n) as i:
        f.store(f.load(f.at(values, i.index)), f.at("%y", i.index))
    return f.text()


def test_kernels_of_one_code_have_numbers_of_their_own() -> None:
    arrays = [np.arange(n, dtype=np.float32)[::-1] for n in (2, 3)]
    kernels = [BoundKernel("put", source(), "put", [a], [len(a)]) for a in arrays]
    assert kernels[0]._code[0] is kernels[1]._code[0]
    assert kernels[0].bytes == 8 + 16
    for kernel, array in zip(kernels, arrays, strict=True):
        y = np.full(4, 9, np.float32)
        kernel(0, y.ctypes.data, 0, 0, 0, 0, 0)
        np.testing.assert_array_equal(y, [*array, *[9] * (4 - len(array))])
