"""Masks of a bit for each number, applied in place: what has no bit becomes zero, and stays alone.

One pass over the numbers and no memory besides, where a product with a mask in torch reads more
than it and writes a copy of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
from torch import Tensor

from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.ir import Function
from secateur.runtime.machine import Tasks

PART = 1 << 18
"""Numbers that one thread takes at a time; a multiple of eight."""
SIZES = (2, 4, 8)
_NAME = "clear"
_UNROLLED = 4
_AHEAD = 8192  # bytes that are asked for before they are needed; a weight is in no near cache
_LINE = 64


def takes(tensor: Tensor) -> bool:
    """Whether `clear` can work on a tensor, on this machine: without gaps, in its own order.

    Example:
        >>> takes(torch.zeros(3, 4)) == llvm.available(), takes(torch.zeros(3, 4).t())
        (True, False)
    """
    fits = tensor.device.type == "cpu" and tensor.is_contiguous()
    fits = fits and tensor.is_floating_point() and tensor.element_size() in SIZES
    return fits and sys.byteorder == "little" and llvm.available()


class Clear:
    """Sets what has no bit to zero in several tensors of one type, all of which it `takes`.

    sources: where the other numbers come from, if not from the tensors themselves.

    bits: uint8; a tensor's bits begin at a whole byte, the lowest first, and one tensor's follow
    the other's. The memory that the tensors have now is what it works on, as often as it is called,
    on torch's threads; keep them.

    Example:
        >>> x = torch.tensor([1.0, float("nan"), 3.0])
        >>> if takes(x):
        ...     Clear([x], torch.tensor([5], dtype=torch.uint8))()
        ...     assert x.tolist() == [1, 0, 3]
    """

    def __init__(
        self, tensors: Sequence[Tensor], bits: Tensor, sources: Sequence[Tensor] | None = None
    ) -> None:
        self._bits = bits  # kept: its address is in the table
        size = tensors[0].element_size()
        rows, byte = [], bits.data_ptr()
        for tensor, source in zip(tensors, sources or tensors, strict=True):
            count = tensor.numel()
            for begin in range(0, count, PART):
                places = (t.data_ptr() + begin * size for t in (tensor, source))
                rows.append((*places, byte + begin // 8, min(PART, count - begin), 0, 0, 0))
            byte += -(-count // 8)
        self._tasks = Tasks(_native(size), np.array(rows, np.int64).reshape(-1, 7))

    def __call__(self) -> None:
        """Work once."""
        self._tasks()


@cache
def _native(size: int) -> int:
    code = llvm.load(text(size, llvm.host()), llvm.host())
    return code.address(_NAME)


def text(size: int, target: llvm.Target) -> str:
    """The text of the kernel for numbers of so many bytes, which it takes for integers."""
    lanes = max(8, target.lanes)
    one = f"i{8 * size}"
    many = f"<{lanes} x {one}>"
    arguments = ["ptr numbers", "ptr source", "ptr bits", "i64 count"]
    f = Function(_NAME, arguments, lanes=lanes)
    with f.loop(0, "%count", _UNROLLED * lanes) as whole:
        for line in range(0, _UNROLLED * lanes * size, _LINE):
            f.prefetch("%source", f.integer("add", whole.index, (_AHEAD + line) // size), one)
        for turn in range(_UNROLLED):
            first = f.integer("add", whole.index, turn * lanes)
            place, source = (f.at(pointer, first, one) for pointer in ("%numbers", "%source"))
            mask = _lanes(f, f.at("%bits", f.integer("lshr", first, 3), "i8"), one)
            old = f.value(f"load {many}, ptr {source}, align {size}")
            new = f.value(f"and {many} {old}, {mask}")
            f.write(f"store {many} {new}, ptr {place}, align {size}")
    with f.loop(whole.index, "%count") as rest:
        place, source = (f.at(pointer, rest.index, one) for pointer in ("%numbers", "%source"))
        byte = f.read(f.at("%bits", f.integer("lshr", rest.index, 3), "i8"), kind="i8")
        bit = f.integer("lshr", byte, f.integer("and", rest.index, 7))
        kept = f.value(f"trunc i64 {bit} to i1")
        old = f.value(f"load {one}, ptr {source}, align {size}")
        new = f.value(f"select i1 {kept}, {one} {old}, {one} 0")
        f.write(f"store {one} {new}, ptr {place}, align {size}")
    return f.text()


def _lanes(f: Function, byte: str, kind: str) -> str:
    """Bits from memory, the lowest for the first lane, as lanes of ones or zeros."""
    many, lanes = f"<{f.lanes} x {kind}>", f.lanes
    bits = f.value(f"load i{lanes}, ptr {byte}, align 1")
    if kind != f"i{lanes}":
        bits = f.value(f"zext i{lanes} {bits} to {kind}")
    first = f.value(f"insertelement {many} poison, {kind} {bits}, i32 0")
    every = f.value(f"shufflevector {many} {first}, {many} poison, <{lanes} x i32> zeroinitializer")
    places = ", ".join(f"{kind} {1 << lane}" for lane in range(lanes))
    own = f.value(f"and {many} {every}, <{places}>")
    kept = f.value(f"icmp ne {many} {own}, zeroinitializer")
    return f.value(f"sext <{lanes} x i1> {kept} to {many}")
