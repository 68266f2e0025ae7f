"""Matrices on their side: blocks of a vector's size are turned in registers."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.ir import Function

_NAME = "transpose"


def transpose(source: Tensor, out: Tensor) -> None:
    """`out[c, r] = source[r, c]`, for float32 matrices whose rows have no gaps.

    Example:
        >>> x = torch.arange(6.0).reshape(2, 3)
        >>> if llvm.available():
        ...     out = torch.empty(3, 2)
        ...     transpose(x, out)
        ...     assert torch.equal(out, x.t())
    """
    rows, columns = source.shape
    if out.shape != (columns, rows):
        raise InputError(f"shape {list(out.shape)} is not that of a turned {list(source.shape)}")
    if any(t.stride(1) != 1 or t.dtype != torch.float32 for t in (source, out)):
        out.copy_(source.t())
        return
    lanes = llvm.host().lanes
    r, c = rows // lanes * lanes, columns // lanes * lanes
    if r and c:
        _native()(source.data_ptr(), out.data_ptr(), source.stride(0), out.stride(0), r, c)
    if c < columns:
        out[c:] = source[:, c:].t()
    if r < rows:
        out[:, r:] = source[r:].t()


@cache
def _native() -> Any:
    code = llvm.load(text(llvm.host()), llvm.host())
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 4)
    return call(code.address(_NAME))


def text(target: llvm.Target) -> str:
    """The text of the kernel; `rows` and `columns` are multiples of a vector's size."""
    sizes = [f"i64 {name}" for name in ("source_pitch", "out_pitch", "rows", "columns")]
    f = Function(_NAME, ["ptr source", "ptr out", *sizes], lanes=target.lanes)
    with f.loop(0, "%rows", f.lanes) as r, f.loop(0, "%columns", f.lanes) as c:
        vectors = []
        for i in range(f.lanes):
            row = f.integer("mul", f.integer("add", r.index, i), "%source_pitch")
            vectors.append(f.load(f.at("%source", f.integer("add", row, c.index))))
        for i, vector in enumerate(_turned(f, vectors)):
            row = f.integer("mul", f.integer("add", c.index, i), "%out_pitch")
            f.store(vector, f.at("%out", f.integer("add", row, r.index)))
    return f.text()


def _turned(f: Function, vectors: list[str]) -> list[str]:
    """A square block: quarters change places, then quarters of these, down to single numbers."""
    half = f.lanes // 2
    while half:
        for i in range(f.lanes):
            if i & half:
                continue
            a, b = vectors[i], vectors[i + half]
            for place, shift in ((i, 0), (i + half, half)):
                from_b = f.lanes + shift - half
                lanes = [n + (from_b if n & half else shift) for n in range(f.lanes)]
                mask = ", ".join(f"i32 {n}" for n in lanes)
                vectors[place] = f.value(
                    f"shufflevector {f.vector} {a}, {f.vector} {b}, <{f.lanes} x i32> <{mask}>"
                )
        half //= 2
    return vectors
