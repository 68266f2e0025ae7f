"""Pieces of a dimension: splits, chunks, slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.core.plan import Reason
from secateur.graph.axes import Axis
from secateur.graph.handlers.registry import equate, handles
from secateur.graph.op import normal_dim
from secateur.graph.sizes import Expr, TracedInt, expr_of

if TYPE_CHECKING:
    from secateur.graph.trace import Trace


@handles(Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes, "unsafe_split",
         "unsafe_split_with_sizes", "split_copy", "split_with_sizes_copy")  # fmt: skip
def _split(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    size = (
        args[1]
        if len(args) > 1
        else next(v for k, v in kwargs.items() if k.startswith("split_size"))
    )
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    d = normal_dim(int(dim), args[0].dim())
    pieces = [trace.axes(piece)[d] for piece in out]
    if isinstance(size, (tuple, list)):
        for s, piece in zip(size, pieces, strict=True):
            equate(trace, s, piece, "a split size")
        return
    for piece in pieces:
        if piece.size == int(size):
            equate(trace, size, piece, "a split size")
    total = ("count", trace.axes(args[0])[d])
    trace.equate(("ceildiv", total, expr_of(size)), len(pieces), "a number of pieces")


@handles(Tensor.chunk, torch.chunk, "unsafe_chunk")
def _chunk(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    chunks = args[1] if len(args) > 1 else kwargs["chunks"]
    if type(chunks) is TracedInt:
        chunks.used_as_number()
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    d = normal_dim(int(dim), args[0].dim())
    width = ("ceildiv", ("count", trace.axes(args[0])[d]), expr_of(chunks))
    pieces = [trace.axes(piece)[d] for piece in out]
    for piece in pieces:
        if piece.size == pieces[0].size:
            trace.equate(width, ("count", piece), "equal chunks")


@handles(torch.tensor_split, Tensor.tensor_split, torch.hsplit, torch.vsplit, torch.dsplit)
def _tensor_split(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pieces that follow from positions or from a number: their sizes stay as they are."""
    for piece in out:
        for axis, whole in zip(trace.axes(piece), trace.axes(args[0]), strict=False):
            if axis.find() is not whole.find():
                trace.equate(("count", axis), axis.size, "a piece of tensor_split")


@handles(Tensor.narrow, torch.narrow)
def _narrow(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    named = dict(zip(("input", "dim", "start", "length"), args, strict=False)) | kwargs
    start, length, d = named["start"], named["length"], int(named["dim"])
    if isinstance(start, Tensor):
        start = int(start)
    pieces = trace.scratch["slices"]
    before = pieces[0][3] if pieces else Axis(0)
    equate(trace, length, trace.axes(out)[normal_dim(d, out.dim())], "a length")
    if before.size:
        equate(trace, start, before, "a start")


@handles("slice", "slice_copy")
def _slice(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    named = dict(zip(("input", "dim", "start", "end", "step"), args, strict=False)) | kwargs
    _bounds(trace, [slice(named.get("start"), named.get("end"), named.get("step"))])


@handles(Tensor.__getitem__, Tensor.__setitem__)
def _getitem(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    _bounds(trace, [item for item in index if isinstance(item, slice)])
    for item in index:
        if type(item) is TracedInt:
            item.used_as_number()


def _bounds(trace: Trace, slices: list[slice]) -> None:
    """Match the non-trivial slices that were executed with the bounds that were written."""
    executed = trace.scratch["slices"]
    written = list(slices)
    for start, stop, size, before, middle, after in executed:
        while written and not _same_bounds(written[0], start, stop, size):
            written.pop(0)
        if not written:
            reason = Reason("a slice whose bounds could not be followed", "slice")
            for piece in (before, middle, after):
                piece.freeze(reason)
            continue
        bounds = written.pop(0)
        for value, front, back in (
            (bounds.start, [before], [middle, after]),
            (bounds.stop, [before, middle], [after]),
        ):
            if value is None:
                continue
            pieces, expr = (
                (front, expr_of(value)) if value >= 0 else (back, ("neg", expr_of(value)))
            )
            total: Expr = 0
            for piece in pieces:
                total = ("count", piece) if total == 0 else ("add", total, ("count", piece))
            if value < 0 or int(value) < size:
                trace.equate(expr, total, "a slice bound")


def _same_bounds(written: slice, start: int, stop: int, size: int) -> bool:
    plain = slice(
        *[None if v is None else int(v) for v in (written.start, written.stop, written.step)]
    )
    return plain.indices(size)[:2] == (start, stop)
