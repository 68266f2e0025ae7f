"""Watches Python-level torch calls: which sizes the user's code passes, and what they must equal.

Every size that reaches a view, split, expand, repeat, slice, normalisation or constructor becomes an
equation between the expression that was passed and the axis that it sizes. A traced integer that
reaches any other call is pinned to its value.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from secateur.core.plan import Reason
from secateur.graph.axes import Axis, unify
from secateur.graph.op import normal_dim
from secateur.graph.sizes import TracedInt, expr_of

if TYPE_CHECKING:
    from secateur.graph.trace import Trace

Handler = Callable[["Trace", tuple[Any, ...], dict[str, Any], Any], None]
HANDLERS: dict[Any, Handler] = {}
_SYM_SIZE = torch.ops.aten.sym_size.int
_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]


def handles(*functions: Any) -> Callable[[Handler], Handler]:
    """Register a handler `(trace, args, kwargs, out)` for Python-level functions.

    The operation of the same name takes the same arguments, and is registered with it.
    """

    def register(handler: Handler) -> Handler:
        for function in functions:
            HANDLERS[function] = handler
            packet = getattr(torch.ops.aten, function.__name__, None)
            if packet is not None:
                HANDLERS[packet] = handler
        return handler

    return register


def call(mode: Any, trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute one intercepted call with plain integers and record what its sizes mean."""
    if func in (_SHAPE, Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__, _SYM_SIZE):
        return _shape(trace, func, args, kwargs)
    plain_args, found = _strip(args)
    plain_kwargs, more = _strip(kwargs)
    if func in _TRANSPARENT:
        with mode:
            return _transparent(func)(*args, **kwargs)
    trace.scratch["slices"] = []
    handler = HANDLERS.get(func)
    raw = isinstance(func, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    if raw:  # an exported graph calls the operations themselves
        handler = HANDLERS.get(getattr(func, "overloadpacket", func))
    trace.inside = handler is not None or not raw
    trace.trusted = handler is _self_adjusting
    try:
        out = func(*plain_args, **plain_kwargs)
    finally:
        trace.inside = trace.trusted = False
    if handler is None:
        for size in found + more:
            size.used_as_number()
        return out
    try:
        handler(trace, args, kwargs, out)
    except Exception as error:
        name = getattr(func, "__name__", str(func))
        reason = trace.reason(f"the sizes passed to {name} could not be followed: {error}", name)
        for tensor in _tensors(out):
            for axis in trace.axes(tensor):
                axis.freeze(reason)
    return out


def _shape(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    tensor = args[0]
    if not trace.known(tensor):
        return out
    axes = trace.axes(tensor)
    if [axis.size for axis in axes] != list(tensor.shape):
        return out
    if func in (_SHAPE, Tensor.size) and isinstance(out, tuple):
        return torch.Size([trace.size_of(axis) for axis in axes])
    if func in (Tensor.size, _SYM_SIZE):
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return trace.size_of(axes[normal_dim(int(dim), len(axes))])
    if func is Tensor.__len__:
        return trace.size_of(axes[0]) if axes else out
    total: Any = 1
    for axis in axes:
        total = total * trace.size_of(axis)
    return total


def _strip(value: Any) -> tuple[Any, list[TracedInt]]:
    """A copy with plain integers, and the traced ones that were in it."""
    if type(value) is TracedInt:
        return int(value), [value]
    if isinstance(value, slice):
        parts, found = _strip((value.start, value.stop, value.step))
        return (slice(*parts), found) if found else (value, found)
    if type(value) in (list, tuple, torch.Size):
        pairs = [_strip(item) for item in value]
        found = [size for _, sizes in pairs for size in sizes]
        return (type(value)([item for item, _ in pairs]), found) if found else (value, found)
    if type(value) is dict:
        pairs = [_strip(item) for item in value.values()]
        found = [size for _, sizes in pairs for size in sizes]
        return ({k: item for k, (item, _) in zip(value, pairs, strict=True)}, found)
    return value, []


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [item for item in out if isinstance(item, Tensor)] if isinstance(out, (tuple, list)) else []


# Python functions of torch whose bodies compute sizes: run them under the mode as user code is.
_TRANSPARENT = {F.multi_head_attention_forward}
_NEVER = {name: lambda *_: False for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")}  # noqa: E501


def _transparent(func: types.FunctionType) -> types.FunctionType:
    return types.FunctionType(
        func.__code__, {**func.__globals__, **_NEVER}, func.__name__, func.__defaults__, func.__closure__
    )


def _bound(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return inspect.signature(func).bind(*args, **kwargs).arguments


def _sizes(args: Sequence[Any], kwargs: dict[str, Any], *names: str) -> list[Any]:
    """The sizes of a call that takes them one by one or as one sequence."""
    if not args:
        args = [next(kwargs[name] for name in names if name in kwargs)]
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        return list(args[0])
    return list(args)


def _equate(trace: Trace, size: Any, axis: Axis, what: str) -> None:
    if isinstance(size, int) and size != -1:
        trace.equate(expr_of(size), ("count", axis), f"{what} written in the model's code")
        trace.pending.pop(axis, None)


@handles(Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand, Tensor.resize_, torch.broadcast_to,
         Tensor.broadcast_to)  # fmt: skip
def _view(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    sizes = _sizes(args[1:], kwargs, "shape", "size")
    if not all(isinstance(size, int) for size in sizes):
        return  # view(dtype)
    for size, axis in zip(sizes, trace.axes(out), strict=True):
        _equate(trace, size, axis, "a size")


@handles(Tensor.as_strided, torch.as_strided)
def _as_strided(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    for size, axis in zip(args[1] if len(args) > 1 else kwargs["size"], trace.axes(out), strict=True):
        _equate(trace, size, axis, "a size")


@handles(Tensor.unflatten, torch.unflatten)
def _unflatten(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    dim = args[1] if len(args) > 1 else kwargs["dim"]
    sizes = args[2] if len(args) > 2 else kwargs["sizes"]
    axes = trace.axes(out)
    start = normal_dim(int(dim), args[0].dim())
    for size, axis in zip(sizes, axes[start:], strict=False):
        _equate(trace, size, axis, "a size")


@handles(Tensor.repeat, torch.tile, Tensor.tile)
def _repeat(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    sizes = _sizes(args[1:], kwargs, "repeats", "dims")
    times = trace.scratch.pop("repeats", [])
    for size, axis in zip(sizes[::-1], times[::-1], strict=False):
        _equate(trace, size, axis, "a number of repeats")


@handles(torch.repeat_interleave, Tensor.repeat_interleave)
def _repeat_interleave(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    times = args[1] if len(args) > 1 else kwargs.get("repeats")
    fresh = [axis for axis in trace.scratch.pop("expanded", []) if axis.size == times]
    if isinstance(times, int) and fresh:
        _equate(trace, times, fresh[-1], "a number of repeats")


@handles(torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn)
def _create(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _name_created(trace, _sizes(args, kwargs, "size"), out)


@handles(Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty)
def _create_like(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    _name_created(trace, _sizes(args[1:], kwargs, "size"), out)


@handles(torch.full, Tensor.new_full)
def _full(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    rest = args[1:] if args and isinstance(args[0], Tensor) else args
    _name_created(trace, list(rest[0] if rest else kwargs["size"]), out)


def _name_created(trace: Trace, sizes: list[Any], out: Tensor) -> None:
    axes = [Axis(size) for size in out.shape]
    for size, axis in zip(sizes, axes, strict=True):
        if isinstance(size, Tensor):
            axis.freeze(trace.reason("its size comes out of a tensor", "constant"))
        _equate(trace, size, axis, "a size")
        if trace.recurrent:  # the zero state of nn.LSTM: only the count matters
            axis.on_count = lambda a, b: trace.equate(("count", a), ("count", b), "zero state")
    trace.give(out, axes)


@handles(torch.arange, torch.linspace, torch.eye, torch.tril_indices, torch.triu_indices)
def _enumerate(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    for size in _strip((args, kwargs))[1]:
        size.used_as_number()


@handles(Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes)
def _split(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    size = args[1] if len(args) > 1 else next(v for k, v in kwargs.items() if k.startswith("split_size"))
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    d = normal_dim(int(dim), args[0].dim())
    pieces = [trace.axes(piece)[d] for piece in out]
    if isinstance(size, (tuple, list)):
        for s, piece in zip(size, pieces, strict=True):
            _equate(trace, s, piece, "a split size")
        return
    for piece in pieces:
        if piece.size == int(size):
            _equate(trace, size, piece, "a split size")
    total = ("count", trace.axes(args[0])[d])
    trace.equate(("ceildiv", total, expr_of(size)), len(pieces), "a number of pieces")


@handles(Tensor.chunk, torch.chunk)
def _chunk(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    chunks = args[1] if len(args) > 1 else kwargs["chunks"]
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    d = normal_dim(int(dim), args[0].dim())
    width = ("ceildiv", ("count", trace.axes(args[0])[d]), expr_of(chunks))
    pieces = [trace.axes(piece)[d] for piece in out]
    for piece in pieces:
        if piece.size == pieces[0].size:
            trace.equate(width, ("count", piece), "equal chunks")


@handles(Tensor.narrow, torch.narrow)
def _narrow(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    named = dict(zip(("input", "dim", "start", "length"), args, strict=False)) | kwargs
    start, length = named["start"], named["length"]
    _bounds(trace, [slice(start, start + length)])


@handles(torch.slice_copy)
def _slice(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    named = dict(zip(("input", "dim", "start", "end", "step"), args, strict=False)) | kwargs
    _bounds(trace, [slice(named.get("start"), named.get("end"), named.get("step"))])


HANDLERS[torch.ops.aten.slice] = _slice


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
            pieces, expr = (front, expr_of(value)) if value >= 0 else (back, ("neg", expr_of(value)))
            total: Any = 0
            for piece in pieces:
                total = ("count", piece) if total == 0 else ("add", total, ("count", piece))
            if value < 0 or int(value) < size:
                trace.equate(expr, total, "a slice bound")


def _same_bounds(written: slice, start: int, stop: int, size: int) -> bool:
    plain = slice(*[None if v is None else int(v) for v in (written.start, written.stop, written.step)])
    return plain.indices(size)[:2] == (start, stop)


@handles(F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm)
def _layer_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    for size, axis in zip(shape, trace.axes(out)[-len(shape) :], strict=True):
        _equate(trace, size, axis, "a normalised size")


@handles(torch.batch_norm)
def _batch_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    channels = trace.axes(args[0])[1]
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):  # also where an empty batch skips the operation itself
            unify(trace.axes(tensor)[0], channels)


@handles(F.group_norm, torch.group_norm)
def _group_norm(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    groups = args[1] if len(args) > 1 else kwargs["num_groups"]
    axis = trace.scratch.pop("groups", None)
    if axis is not None:
        _equate(trace, groups, axis, "a number of groups")


@handles(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d,
         torch.conv_transpose3d)  # fmt: skip
def _convolution(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axis = trace.scratch.pop("groups", None)
    if axis is not None:
        _equate(trace, kwargs.get("groups", args[6] if len(args) > 6 else 1), axis, "a number of groups")


@handles(F.scaled_dot_product_attention)
def _attention(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    query = args[0] if args else kwargs["query"]
    if kwargs.get("scale") is None:  # the default is 1 / sqrt(head dim)
        axis = trace.axes(query)[-1]
        trace.equate(("count", axis), axis.size, "attention is scaled by 1/sqrt of this size")


@handles(torch.channel_shuffle, F.channel_shuffle, torch.native_channel_shuffle, F.pixel_shuffle,
         F.pixel_unshuffle, torch.flatten, Tensor.flatten, torch.permute, Tensor.permute,
         torch.transpose, Tensor.transpose, torch.unbind, Tensor.unbind,
         F.dropout, F.unfold, F.fold, torch._VF._pad_packed_sequence, torch._VF._pack_padded_sequence,
         F.glu, torch.kron, torch.block_diag)  # fmt: skip
def _self_adjusting(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Integer arguments that are not sizes of free axes; their rules freeze what they must."""
