"""Matrix-vector products that read only what counts: rows of live inputs, or rows of live outputs.

Where llvmlite is missing, `available` says so, and callers mask instead.
"""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.runtime.kernels.ir import Function
from secateur.runtime.kernels.llvm import Target, available, host, load
from secateur.runtime.machine import parallel

_TILE = 4096  # columns whose sums stay in the first-level cache
_ROWS = 8  # rows that are added while a sum is in a register
_SUMS = 2  # independent sums of one dot product, so that additions do not wait for each other
_TOGETHER = 4  # dot products at a time, so that memory is read in as many streams
_PIECE = 1 << 18  # weights that are worth a thread of their own
_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 7)
_COMPACT = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_float, ctypes.c_int64)


def usable(*tensors: Tensor | None) -> bool:
    """Whether kernels can read the tensors: float32 on the CPU, and none that wants gradients."""
    grad = torch.is_grad_enabled()
    return not torch.compiler.is_compiling() and all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not (grad and tensor.requires_grad)
        for tensor in tensors
        if tensor is not None
    )


def skipping(
    x: Tensor, columns: Tensor, bias: Tensor | None, threshold: float, add: Tensor | None = None
) -> Tensor:
    """`columns.T @ where(|x| > threshold, x, 0) + bias`, reading the rows of live inputs only.

    x: `[k]`; columns: `[k, out]` (the transposed weight), without gaps; NaN is alive. add: what the
    sums start from instead of the bias; it is written to.

    Example:
        >>> x, weight = torch.tensor([3.0, 0.1, -2.0]), torch.ones(4, 3)
        >>> skipping(x, weight.t().contiguous(), None, 0.5) if available() else torch.ones(4)
        tensor([1., 1., 1., 1.])
    """
    k, n = columns.shape
    compact, product, _ = _compiled()
    x, live = x.contiguous(), torch.empty(k + 1, dtype=torch.int64)
    out = _start(n, bias) if add is None else add
    compact(x.data_ptr(), k, threshold, live.data_ptr())
    ahead = (x.data_ptr(), live.data_ptr(), columns.data_ptr(), n, out.data_ptr())
    _split(product, ahead, n, k * n)
    return out


def selected(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """`weight[rows] @ x + bias[rows]` without copying rows; weight `[out, k]` has no gaps.

    Example:
        >>> weight, rows = torch.arange(6.0).reshape(2, 3), torch.tensor([1])
        >>> selected(torch.ones(3), weight, None, rows) if available() else torch.tensor([12.0])
        tensor([12.])
    """
    x, rows, k = x.contiguous(), rows.contiguous(), weight.shape[1]
    out = torch.zeros(len(rows)) if bias is None else bias.index_select(0, rows)
    ahead = (x.data_ptr(), k, weight.data_ptr(), rows.data_ptr(), out.data_ptr())
    _split(_compiled()[2], ahead, len(rows), len(rows) * k)
    return out


def _start(n: int, bias: Tensor | None) -> Tensor:
    return torch.zeros(n) if bias is None else bias.detach().clone()


def _split(function: Any, ahead: tuple[int, ...], n: int, weights: int) -> None:
    """Run a kernel over the outputs from 0 to n, on as many threads as that is worth."""
    threads = min(torch.get_num_threads(), max(1, weights // _PIECE))
    if threads == 1:
        function(*ahead, 0, n)
        return
    ends = [n * part // threads // 16 * 16 for part in range(threads)] + [n]
    tasks = [(*ahead, a, b) for a, b in pairwise(ends)]
    parallel(ctypes.cast(function, ctypes.c_void_p).value or 0, np.array(tasks, dtype=np.int64))


@cache
def _compiled() -> tuple[Any, Any, Any]:
    """The three kernels as functions of addresses."""
    target = host()
    code = load(source(target), target)
    names = (("compact", _COMPACT), ("skipping", _SIGNATURE), ("selected", _SIGNATURE))
    one, two, three = (kind(code.address(name)) for name, kind in names)
    return one, two, three


def source(target: Target) -> str:
    """All kernels in LLVM's language."""
    functions = [_compact(target), _skipping(target), _selected(target)]
    lines = [line for f in functions for line in f.text().splitlines()]
    heads = {line: None for line in lines if line.startswith("declare")}
    heads["declare float @llvm.fabs.f32(float)"] = None
    return "\n".join([*heads, *(line for line in lines if not line.startswith("declare"))])


def _compact(target: Target) -> Function:
    """`live[0]` = how many `|x[i]| > threshold`, and then these i; NaN is alive."""
    f = Function("compact", ["ptr x", "i64 k", "float t", "ptr live"], lanes=target.lanes)
    with f.loop(0, "%k", carry=["0"], kind="i64") as row:
        place = f.integer("add", row.values[0], 1)
        f.write(f"store i64 {row.index}, ptr {f.at('%live', place, 'i64')}")
        value = f.value(f"load float, ptr {f.at('%x', row.index)}")
        size = f.value(f"call float @llvm.fabs.f32(float {value})")
        alive = f.value(f"fcmp ugt float {size}, %t")
        more = f.value(f"zext i1 {alive} to i64")
        row.after = [f.integer("add", row.values[0], more)]
    f.write(f"store i64 {row.values[0]}, ptr %live")
    return f


def _skipping(target: Target) -> Function:
    """`y[begin:end] += sum of x[i] * w[i, begin:end]` over the live i."""
    names = ["ptr x", "ptr live", "ptr w", "i64 n", "ptr y", "i64 begin", "i64 end"]
    f = Function("skipping", names, lanes=target.lanes, fused=target.fused)
    total = f.read("%live")
    whole = f.integer("and", total, -_ROWS)
    tiles = f.integer("add", "%end", _TILE - 1)  # the loop takes whole steps only
    with f.loop("%begin", tiles, _TILE) as tile:
        end = f.least(f.integer("add", tile.index, _TILE), "%end")
        with f.loop(0, whole, _ROWS) as group:
            _add(f, group.index, _ROWS, tile.index, end)
        with f.loop(whole, total) as group:
            _add(f, group.index, 1, tile.index, end)
    return f


def _add(f: Function, first: str, rows: int, begin: str, end: str) -> None:
    """Add some live rows to the sums of a tile."""
    scales, bases = [], []
    for k in range(1, rows + 1):
        row = f.read("%live", f.integer("add", first, k))
        scales.append(f.value(f"load float, ptr {f.at('%x', row)}"))
        bases.append(f.at("%w", f.integer("mul", row, "%n")))
    wide = [f.splat(scale) for scale in scales]
    with f.loop(begin, end, f.lanes) as column:
        place = f.at("%y", column.index)
        total = f.load(place)
        for scale, base in zip(wide, bases, strict=True):
            total = f.fma(f.load(f.at(base, column.index)), scale, total)
        f.store(total, place)
    with f.loop(column.index, end) as column:
        place = f.at("%y", column.index)
        total = f.value(f"load float, ptr {place}")
        for scale, base in zip(scales, bases, strict=True):
            total = _times_plus(f, base, column.index, scale, total)
        f.write(f"store float {total}, ptr {place}")


def _selected(target: Target) -> Function:
    """`y[r] += w[rows[r], :] . x` for r from begin to end."""
    names = ["ptr x", "i64 k", "ptr w", "ptr rows", "ptr y", "i64 begin", "i64 end"]
    f = Function("selected", names, lanes=target.lanes, fused=target.fused)
    with f.loop("%begin", "%end", _TOGETHER) as several:
        _dot(f, several.index, _TOGETHER)
    with f.loop(several.index, "%end") as one:
        _dot(f, one.index, 1)
    return f


def _dot(f: Function, first: str, rows: int) -> None:
    """Add some selected rows' dot products to their outputs."""
    places, bases, starts = [], [], []
    for k in range(rows):
        number = f.integer("add", first, k)
        bases.append(f.at("%w", f.integer("mul", f.read("%rows", number), "%k")))
        places.append(f.at("%y", number))
        starts.append(f.value(f"load float, ptr {places[-1]}"))
    zeros = [f.constant(0.0)] * (_SUMS * rows)
    with f.loop(0, "%k", _SUMS * f.lanes, zeros) as column:
        for part in range(_SUMS):
            here = f.integer("add", column.index, part * f.lanes)
            x = f.load(f.at("%x", here))
            for row, base in enumerate(bases):
                place = row * _SUMS + part
                column.after[place] = f.fma(x, f.load(f.at(base, here)), column.values[place])
    with f.loop(column.index, "%k", carry=starts, kind="float") as left:
        x = f.value(f"load float, ptr {f.at('%x', left.index)}")
        left.after = [
            _times_plus(f, base, left.index, x, total)
            for base, total in zip(bases, left.values, strict=True)
        ]
    for row, place in enumerate(places):
        total, found = column.values[row * _SUMS], left.values[row]
        for value in column.values[row * _SUMS + 1 : (row + 1) * _SUMS]:
            total = f.add(total, value)
        f.write(f"store float {f.sum(total, found)}, ptr {place}")


def _times_plus(f: Function, base: str, index: str, scale: str, total: str) -> str:
    """`base[index] * scale + total` of single numbers."""
    value = f.value(f"load float, ptr {f.at(base, index)}")
    return f.value(f"fadd float {f.value(f'fmul float {value}, {scale}')}, {total}")


__all__ = ["available", "selected", "skipping", "source", "usable"]
