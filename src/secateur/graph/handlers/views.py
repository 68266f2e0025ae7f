"""Views, expansions and repeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.graph.axes import Axis, product
from secateur.graph.handlers.registry import equate, handles, sizes_of
from secateur.graph.op import normal_dim
from secateur.graph.sizes import Expr, expr_of

if TYPE_CHECKING:
    from secateur.graph.trace import Trace


@handles(Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand, Tensor.resize_,
         torch.broadcast_to,
         Tensor.broadcast_to, "_unsafe_view", "view_copy",
         "_reshape_copy", "expand_copy")  # fmt: skip
def _view(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    sizes = sizes_of(args[1:], kwargs, "shape", "size")
    if not all(isinstance(size, int) for size in sizes):
        return  # view(dtype)
    for size, axis in zip(sizes, trace.axes(out), strict=True):
        equate(trace, size, axis, "a size")


@handles(Tensor.view_as, Tensor.reshape_as, Tensor.expand_as)
def _same_shape(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    other = args[1] if len(args) > 1 else kwargs["other"]
    for axis, model in zip(trace.axes(out), trace.axes(other), strict=True):
        trace.equate(("count", axis), ("count", model), "the shape of another tensor")


@handles(torch.broadcast_tensors, torch.meshgrid)
def _common_shape(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    for tensor in out[1:]:
        for axis, model in zip(trace.axes(tensor), trace.axes(out[0]), strict=True):
            trace.equate(("count", axis), ("count", model), "a common shape")


@handles(Tensor.as_strided, torch.as_strided, "as_strided_", "as_strided_copy")
def _as_strided(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Sizes must be counts; strides must keep their proportion to the strides of the source."""
    named = dict(zip(("input", "size", "stride"), args, strict=False)) | kwargs
    source = named["input"]
    for size, axis in zip(named["size"], trace.axes(out), strict=True):
        equate(trace, size, axis, "a size")
    axes = trace.axes(source)
    steps = [(source.stride(d), stride_of(axes, d)) for d in range(source.dim())]
    for size, stride in zip(named["size"], named["stride"], strict=True):
        below = [(plain, expr) for plain, expr in steps if plain and int(stride) % plain == 0]
        if int(size) > 1 and int(stride) > 1 and below:
            plain, expr = max(below, key=lambda pair: pair[0])
            wanted = ("mul", int(stride) // plain, expr)
            trace.equate(expr_of(stride), wanted, "a stride written in the model's code")


@handles("_reshape_alias")
def _reshape_alias(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = trace.axes(out)
    for d, (size, stride) in enumerate(zip(args[1], args[2], strict=True)):
        equate(trace, size, axes[d], "a size")
        trace.equate(expr_of(stride), stride_of(axes, d), "a stride written in the model's code")


def stride_of(axes: list[Axis], dim: int) -> Expr:
    """The stride of a dimension of a contiguous tensor, as an expression."""
    return ("count", product(axes[dim + 1 :])) if dim + 1 < len(axes) else 1


@handles(Tensor.unflatten, torch.unflatten)
def _unflatten(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    dim = args[1] if len(args) > 1 else kwargs["dim"]
    sizes = args[2] if len(args) > 2 else kwargs["sizes"]
    axes = trace.axes(out)
    start = normal_dim(int(dim), args[0].dim())
    for size, axis in zip(sizes, axes[start:], strict=False):
        equate(trace, size, axis, "a size")


@handles(Tensor.repeat, torch.tile, Tensor.tile)
def _repeat(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    sizes = sizes_of(args[1:], kwargs, "repeats", "dims")
    times = trace.scratch.pop("repeats", [])
    for size, axis in zip(sizes[::-1], times[::-1], strict=False):
        equate(trace, size, axis, "a number of repeats")


@handles(torch.repeat_interleave, Tensor.repeat_interleave)
def _repeat_interleave(
    trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> None:
    times = args[1] if len(args) > 1 else kwargs.get("repeats")
    expanded = trace.scratch.pop("expanded", [])
    if isinstance(times, int):  # a tensor of numbers is the operation's own business
        fresh = [axis for axis in expanded if axis.size == times]
        for axis in fresh[-1:]:
            equate(trace, times, axis, "a number of repeats")
