"""Watches Python-level torch calls: which sizes the user's code passes, and what they must equal.

Every size that reaches a view, split, expand, repeat, slice, normalisation or constructor becomes
an equation between the expression that was passed and the axis that it sizes. A traced integer that
reaches any other call is pinned to its value.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.graph.handlers import HANDLERS, self_adjusting
from secateur.graph.handlers.views import stride_of
from secateur.graph.op import normal_dim
from secateur.graph.sizes import TracedInt

if TYPE_CHECKING:
    from secateur.graph.trace import Trace

_SYM_SIZE = torch.ops.aten.sym_size.int
_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]


def call(mode: Any, trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute one intercepted call with plain integers and record what its sizes mean."""
    if func is Tensor.stride:
        return _stride(trace, args, kwargs)
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
    trace.trusted = handler is self_adjusting
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


def _stride(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Strides of a contiguous tensor are products of counts."""
    tensor = args[0]
    out = tensor.stride(*[int(a) for a in args[1:]], **kwargs)
    if not trace.known(tensor) or not tensor.is_contiguous():
        return out
    axes = trace.axes(tensor)
    named = [
        TracedInt.make(tensor.stride(d), stride_of(axes, d)) if tensor.stride(d) > 1 else 1
        for d in range(tensor.dim())
    ]
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return tuple(named) if dim is None else named[normal_dim(int(dim), len(named))]


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
    return (
        [item for item in out if isinstance(item, Tensor)] if isinstance(out, (tuple, list)) else []
    )


# Python functions of torch whose bodies compute sizes: run them under the mode as user code is.
_TRANSPARENT = {F.multi_head_attention_forward}
_NEVER = {
    name: lambda *_: False
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
}


def _transparent(func: types.FunctionType) -> types.FunctionType:
    return types.FunctionType(
        func.__code__,
        {**func.__globals__, **_NEVER},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
