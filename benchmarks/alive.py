"""Statistics over what is not zeroed: makes the masked original comparable where a norm is cut.

Zeroing channels does not remove them from a layer norm's mean, so the masked original and the
smaller model differ by design. Inside this mode, normalisations and one-dimensional means and
variances see only indices that are not zero everywhere. Which ones those are is read off the
activations alone: nothing here knows a plan, an axis or a layout, so that agreement is evidence
that owes nothing to the library under test. (Disagreement is none: an index can be zero everywhere
by chance, and a constant added to a removed channel hides it.)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


class AliveStatistics(TorchDispatchMode):
    """Inside, statistics over a dimension leave out its indices that are zero everywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _HANDLERS.get(func)
        bound = bind(func, args, kwargs or {})
        result = handler(bound) if handler is not None else None
        return func(*args, **(kwargs or {})) if result is None else result


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included."""
    schema = func._schema.arguments
    values = {p.name: p.default_value for p in schema if p.has_default_value()}
    return values | dict(zip((p.name for p in schema), args, strict=False)) | kwargs


def alive(x: Tensor, dims: list[int]) -> Tensor:
    """Whether an index of `dims` is not zero everywhere; shaped to broadcast with x."""
    others = [d for d in range(x.dim()) if d not in dims]
    there = x != 0
    for d in others:
        there = there.any(d, keepdim=True)
    return there


def complete(mask: Tensor) -> bool:
    """Whether there is nothing to leave out: no zeros, or nothing but zeros."""
    return bool(mask.all()) or not bool(mask.any())


def moments(x: Tensor, dims: list[int], mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, mean of squared deviations, and how many there are, over what the mask keeps."""
    mask = mask.expand_as(x)
    count = mask.sum(dims, keepdim=True).clamp_min(1)
    mean = (x * mask).sum(dims, keepdim=True) / count
    return mean, (((x - mean) * mask) ** 2).sum(dims, keepdim=True) / count, count


def layer_norm(a: dict[str, Any]) -> Any:
    """A layer norm over the last dimensions."""
    x = a["input"]
    dims = list(range(x.dim() - len(a["normalized_shape"]), x.dim()))
    mask = alive(x, dims)
    if complete(mask):
        return None
    mean, variance, _ = moments(x, dims, mask)
    scale = (variance + a["eps"]).rsqrt()
    return affine((x - mean) * scale, a) * mask, mean, scale


def rms_norm(a: dict[str, Any]) -> Any:
    """A root-mean-square norm over the last dimensions."""
    x = a["input"]
    dims = list(range(x.dim() - len(a["normalized_shape"]), x.dim()))
    mask = alive(x, dims)
    if complete(mask):
        return None
    eps = torch.finfo(x.dtype).eps if a["eps"] is None else a["eps"]
    count = mask.expand_as(x).sum(dims, keepdim=True).clamp_min(1)
    scale = (x.pow(2).sum(dims, keepdim=True) / count + eps).rsqrt()
    return affine(x * scale, a | {"bias": None}) * mask, scale


def affine(x: Tensor, a: dict[str, Any]) -> Tensor:
    """Scale and shift."""
    x = x if a["weight"] is None else x * a["weight"]
    return x if a["bias"] is None else x + a["bias"]


def group_norm(a: dict[str, Any]) -> Any:
    """A group norm over channels of a group and positions."""
    x = a["input"]
    mask = alive(x, [1])
    if complete(mask):
        return None
    grouped, groups = (x.shape[0], a["group"], -1), mask.expand_as(x)
    mean, variance, _ = moments(x.reshape(grouped), [2], groups.reshape(grouped))
    scale = (variance + a["eps"]).rsqrt()
    out = ((x.reshape(grouped) - mean) * scale).reshape(x.shape)
    channels = [1, -1] + [1] * (x.dim() - 2)
    shaped = {k: None if a[k] is None else a[k].view(channels) for k in ("weight", "bias")}
    return affine(out, shaped) * mask, mean.squeeze(2), scale.squeeze(2)


def one_dimension(a: dict[str, Any]) -> tuple[Tensor, list[int], Tensor] | None:
    """Input, dimension and mask of a statistic over one dimension with zeroed indices."""
    x, dims = a["self"], a["dim"]
    if dims is None or len(dims) != 1 or x.dim() < 2 or not x.is_floating_point():
        return None
    dims = [dims[0] % x.dim()]
    mask = alive(x, dims)
    return None if complete(mask) else (x, dims, mask)


def shaped(value: Tensor, dims: list[int], keep: bool) -> Tensor:
    """The statistic without the dimension, unless it is to be kept."""
    return value if keep else value.squeeze(dims[0])


def mean(a: dict[str, Any]) -> Any:
    """A mean over one dimension."""
    found = one_dimension(a)
    return None if found is None else shaped(moments(*found)[0], found[1], a["keepdim"])


def variance(a: dict[str, Any]) -> Any:
    """A variance over one dimension."""
    both = variance_and_mean(a)
    return None if both is None else both[0]


def variance_and_mean(a: dict[str, Any]) -> Any:
    """A variance and a mean over one dimension."""
    found = one_dimension(a)
    if found is None:
        return None
    middle, spread, count = moments(*found)
    correction = 1 if a["correction"] is None else a["correction"]
    spread = spread * count / (count - correction).clamp_min(1)
    return shaped(spread, found[1], a["keepdim"]), shaped(middle, found[1], a["keepdim"])


def deviation(a: dict[str, Any]) -> Any:
    """A standard deviation over one dimension."""
    value = variance(a)
    return None if value is None else value.sqrt()


def neighbours(pool: Any, rank: int, a: dict[str, Any]) -> Any:
    """A mean over neighbours along one dimension, whose padded ends are zero and count."""
    x, kernel = a["self"], a["kernel_size"]
    wide = [k for k, n in enumerate(kernel) if n > 1]
    if len(wide) != 1 or set(a["stride"]) != {1} or any(a["padding"]) or len(kernel) != rank:
        return None
    d, ends = x.dim() - rank + wide[0], kernel[wide[0]] - 1
    front = (ends + 1) // 2
    inside = slice(front, x.shape[d] - ends + front)
    there = alive(x, [d]).flatten()
    if complete(there[inside]):
        return None
    kept = there.clone()
    kept[:front] = kept[inside.stop :] = True
    small = pool(x.index_select(d, kept.nonzero().flatten()), kernel, a["stride"])
    where = there[inside].nonzero().flatten()
    shape = [n if k != d else x.shape[d] - ends for k, n in enumerate(x.shape)]
    return x.new_zeros(shape).index_copy_(d, where, small)


_HANDLERS: dict[Any, Any] = {
    _aten.avg_pool2d.default: partial(neighbours, _aten.avg_pool2d.default, 2),
    _aten.avg_pool3d.default: partial(neighbours, _aten.avg_pool3d.default, 3),
    _aten.native_layer_norm.default: layer_norm,
    _aten._fused_rms_norm.default: rms_norm,
    _aten.native_group_norm.default: group_norm,
    _aten.mean.dim: mean,
    _aten.var.correction: variance,
    _aten.std.correction: deviation,
    _aten.var_mean.correction: variance_and_mean,
}
