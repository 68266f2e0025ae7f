"""Tensors made from sizes, and tensors that leave PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.graph.axes import Axis
from secateur.graph.handlers.registry import equate, handles, sizes_of
from secateur.graph.sizes import TracedInt

if TYPE_CHECKING:
    from secateur.graph.trace import Trace


@handles(torch.zeros, torch.ones, torch.empty)
def _create(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _name_created(trace, sizes_of(args, kwargs, "size"), out)


@handles(torch.rand, torch.randn)
def _draw(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _name_created(trace, sizes_of(args, kwargs, "size"), out)
    for axis in trace.axes(out):
        axis.freeze(trace.reason("random numbers are drawn along it", "random"))


@handles(Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty)
def _create_like(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _name_created(trace, sizes_of(args[1:], kwargs, "size"), out)


@handles(torch.full, Tensor.new_full)
def _full(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    rest = args[1:] if args and isinstance(args[0], Tensor) else args
    _name_created(trace, list(rest[0] if rest else kwargs["size"]), out)


def _name_created(trace: Trace, sizes: list[Any], out: Tensor) -> None:
    axes = [Axis(size) for size in out.shape]
    for size, axis in zip(sizes, axes, strict=True):
        if isinstance(size, Tensor):
            axis.freeze(trace.reason("its size comes out of a tensor", "constant"))
        equate(trace, size, axis, "a size")
        if trace.recurrent:  # the zero state of nn.LSTM: only the count matters
            axis.on_count = lambda a, b: trace.equate(("count", a), ("count", b), "zero state")
    trace.give(out, axes)


@handles(torch.arange, torch.linspace, torch.eye, torch.tril_indices, torch.triu_indices)
def _enumerate(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    for size in [*args, *kwargs.values()]:
        if type(size) is TracedInt:
            size.used_as_number()


@handles(Tensor.numpy, Tensor.tolist, Tensor.__array__)
def _escape(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Values that leave the traced operations: nobody knows where they go."""
    for axis in trace.axes(args[0]):
        axis.freeze(trace.reason("its values leave PyTorch", "numpy"))
