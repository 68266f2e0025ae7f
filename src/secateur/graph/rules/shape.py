"""Views: factor, merge, permute, add and drop dimensions."""

from __future__ import annotations

from math import prod

import torch

from secateur.graph.axes import Axis, factor, product, split
from secateur.graph.op import Op, aten, atens, normal_dim, normal_dims, rule


@rule(*atens("view _unsafe_view reshape _reshape_alias view_copy reshape_as view_as _reshape_copy"))
def view(op: Op) -> None:
    """Match runs of input and output dimensions of equal extent; each run merges, then factors."""
    source = op.args["self"]
    axes = op.axes(source)
    if source.dtype != op.out.dtype:
        return view_dtype(op)
    old, new = list(source.shape), list(op.out.shape)
    named: list[Axis] = []
    i = j = 0
    while i < len(old) or j < len(new):
        run_in, run_out = [i], [j]
        size_in = old[i] if i < len(old) else 1
        size_out = new[j] if j < len(new) else 1
        i, j = i + 1, j + 1
        while size_in != size_out:
            if size_in < size_out:
                run_in.append(i)
                size_in *= old[i]
                i += 1
            else:
                run_out.append(j)
                size_out *= new[j]
                j += 1
        merged = product(axes[d] for d in run_in if d < len(old))
        shape = [new[d] for d in run_out if d < len(new)]
        if shape:
            named += _factor(op, merged, shape)
    op.give(op.out, named)


def _factor(op: Op, merged: Axis, shape: list[int]) -> list[Axis]:
    factors = factor(merged, shape) if prod(shape) == merged.size else None
    if factors is None:
        op.freeze(merged, f"viewed as {tuple(shape)}, which does not line up with its parts")
        factors = [op.fixed(size, "part of a view that does not line up") for size in shape]
    return factors


def view_dtype(op: Op) -> None:
    """Reinterpreted bytes: only a last dimension of unchanged size survives."""
    axes = op.axes(op.args["self"])
    if list(op.out.shape) != [axis.size for axis in axes]:
        raise ValueError("a view with another element size")
    op.give(op.out, axes)


@rule(aten.view_as_real)
def view_as_real(op: Op) -> None:
    """A complex tensor with its two parts as a last dimension."""
    op.give(op.out, [*op.axes(op.args["self"]), op.fixed(2, "real and imaginary part")])


@rule(aten.view_as_complex)
def view_as_complex(op: Op) -> None:
    """The reverse."""
    *axes, last = op.axes(op.args["self"])
    op.freeze(last, "real and imaginary part")
    op.give(op.out, axes)


@rule(aten.permute, aten.permute_copy)
def permute(op: Op) -> None:
    """Dimensions in another order."""
    axes = op.axes(op.args["self"])
    op.give(op.out, [axes[normal_dim(d, len(axes))] for d in op.args["dims"]])


def _before(op: Op) -> list[Axis]:
    """The input's axes; an in-place operation has changed its shape already."""
    tensor = op.args["self"]
    return op.trace.before(tensor) if op.func._opname.endswith("_") else op.axes(tensor)


@rule(aten.transpose, aten.transpose_, aten.swapaxes, aten.transpose_copy, aten.swapaxes_)
def transpose(op: Op) -> None:
    """Two dimensions exchanged."""
    axes = _before(op)
    if axes:
        first, second = list(op.args.values())[1:3]
        a, b = normal_dim(first, len(axes)), normal_dim(second, len(axes))
        axes[a], axes[b] = axes[b], axes[a]
    op.give(op.out, axes)


@rule(aten.t, aten.t_, aten.numpy_T, aten.t_copy)
def t(op: Op) -> None:
    """All dimensions reversed."""
    op.give(op.out, _before(op)[::-1])


@rule(aten.unsqueeze, aten.unsqueeze_, aten.unsqueeze_copy)
def unsqueeze(op: Op) -> None:
    """A new dimension of one index."""
    before = op.out.dim() - 1
    axes = _before(op)[:before]
    axes.insert(normal_dim(op.args["dim"], before + 1), Axis(1))
    op.give(op.out, axes)


@rule(aten.squeeze, aten.squeeze_, aten.squeeze_copy)
def squeeze(op: Op) -> None:
    """Dimensions of one index dropped."""
    axes = _before(op)
    dims = set(normal_dims(op.get("dim"), len(axes))) if "dim" in op.args else set(range(len(axes)))
    for d in dims:
        if axes[d].size > 1:  # cut down to one index it would be dropped as well
            op.trace.equate(
                ("lt", 1, ("count", axes[d])), 1, "squeeze drops dimensions of one index"
            )
    op.give(op.out, [axis for d, axis in enumerate(axes) if not (d in dims and axis.size == 1)])


@rule(aten.expand, aten.expand_copy, aten.broadcast_to, aten.expand_as)
def expand(op: Op) -> None:
    """Dimensions of one index repeated; the user's code or a partner sizes the new axis."""
    axes = op.axes(op.args["self"])
    shift = op.out.dim() - len(axes)
    named = []
    for d, size in enumerate(op.out.shape):
        axis = axes[d - shift] if d >= shift else None
        if axis is None or axis.size != size:
            axis = op.fresh(size, "an expanded size")
            op.trace.scratch.setdefault("expanded", []).append(axis)
        named.append(axis)
    op.give(op.out, named)


@rule(aten.repeat)
def repeat(op: Op) -> None:
    """Every dimension becomes times x axis."""
    axes = op.axes(op.args["self"])
    times = [op.fresh(int(n), "a number of repeats") for n in op.args["repeats"]]
    axes = [Axis(1)] * (len(times) - len(axes)) + axes
    op.trace.scratch["repeats"] = times
    op.give(op.out, [product([n, axis]) for n, axis in zip(times, axes, strict=True)])


@rule(aten.channel_shuffle, aten.native_channel_shuffle)
def channel_shuffle(op: Op) -> None:
    """(groups, rest) becomes (rest, groups)."""
    axes = op.axes(op.args["self"])
    groups = op.args["groups"]
    pair = _factor(op, axes[1], [groups, axes[1].size // groups])
    op.freeze(pair[0], "the groups of a channel shuffle")
    op.give(op.out, [axes[0], product(pair[::-1]), *axes[2:]])


@rule(aten.glu)
def glu(op: Op) -> None:
    """Two halves of one dimension, one gating the other."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.get("dim", -1), len(axes))
    halves = split(axes[d], [axes[d].size // 2] * 2)
    if halves is None:
        raise ValueError("the halves do not line up with its parts")
    op.unify(*halves)
    op.give(op.out, [*axes[:d], halves[0], *axes[d + 1 :]])


@rule(aten.pixel_shuffle)
def pixel_shuffle(op: Op) -> None:
    """(channels, r * r) becomes channels; the r * r move into space."""
    axes, r = op.axes(op.args["self"]), op.args["upscale_factor"]
    channels, space = _factor(op, axes[-3], [axes[-3].size // (r * r), r * r])
    op.freeze(space, "the factor of a pixel shuffle")
    _freeze_space(op, axes)
    op.give(op.out, [*axes[:-3], channels, *[op.spatial(n) for n in op.out.shape[-2:]]])


def _freeze_space(op: Op, axes: list[Axis]) -> None:
    for axis in axes[-2:]:
        op.freeze(axis, "space that a pixel shuffle rearranges")


@rule(aten.pixel_unshuffle)
def pixel_unshuffle(op: Op) -> None:
    """The reverse."""
    axes, r = op.axes(op.args["self"]), op.args["downscale_factor"]
    _freeze_space(op, axes)
    channels = product([axes[-3], op.fixed(r * r, "the factor of a pixel unshuffle")])
    op.give(op.out, [*axes[:-3], channels, *[op.spatial(n) for n in op.out.shape[-2:]]])


@rule(aten.as_strided, aten.as_strided_, aten.as_strided_copy)
def as_strided(op: Op) -> None:
    """Overlapping windows: a dimension survives where the new strides step over it as a whole.

    Index i of an input dimension (size n, stride s) is still index i of an output dimension with
    the same size and stride if all other output strides are multiples of n * s or stay below s
    together.
    """
    source, out = op.args["self"], op.out
    axes, strides = op.axes(source), source.stride()
    named: list[Axis | None] = [None] * out.dim()
    if op.get("storage_offset") in (None, source.storage_offset()) and source.is_contiguous():
        for axis, stride in zip(axes, strides, strict=True):
            for d in range(out.dim()):
                if named[d] is None and _steps_over(out, d, axis.size, stride):
                    named[d] = axis
                    break
    for axis in axes:
        if axis not in named:
            op.freeze(axis, "as_strided rearranges it")
    op.give(out, [axis or op.spatial(n) for axis, n in zip(named, out.shape, strict=True)])


def _steps_over(out: torch.Tensor, d: int, size: int, stride: int) -> bool:
    if (out.shape[d], out.stride(d)) != (size, stride):
        return False
    others = [
        (n, s)
        for k, (n, s) in enumerate(zip(out.shape, out.stride(), strict=True))
        if k != d and n > 1
    ]
    inner = sum((n - 1) * s for n, s in others if s % (size * stride))
    return inner < stride


@rule(aten.flip, aten.roll, aten.rot90)
def reorder(op: Op) -> None:
    """Positions move along some dimensions, which therefore must stay whole."""
    axes = op.axes(op.args["self"])
    for d in normal_dims(op.get("dims"), len(axes)):
        op.freeze(axes[d], f"{op.func._opname} moves its positions")
    if [axis.size for axis in axes] != list(op.out.shape):
        raise ValueError("dimensions exchanged")
    op.give(op.out, axes)
