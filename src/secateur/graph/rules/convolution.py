"""Convolutions of any dimension: dense, grouped, depthwise, transposed; unfolding."""

from __future__ import annotations

from secateur.core.plan import Reason
from secateur.graph.axes import Axis, factor, product
from secateur.graph.op import GEOMETRY, Op, aten, rule


@rule(aten.convolution, aten._convolution, aten.convolution_overrideable, aten.mkldnn_convolution)
def convolution(op: Op) -> None:
    """Channels in are groups x channels per group; space and kernel never shrink."""
    x, weight, bias, groups = (
        op.args.get("input", op.args.get("self")),
        op.args["weight"],
        op.get("bias"),
        op.get("groups", 1),
    )
    a, w = op.axes(x), op.axes(weight)
    for axis in w[2:]:
        axis.freeze(Reason("the kernel of a convolution", GEOMETRY))
    space = [_slide(op, k, axis, weight.shape[2 + k]) for k, axis in enumerate(a[2:])]
    if op.get("transposed", False):
        channels = _transposed(op, a[1], w, groups)
        op.macs(1, [a[0], *a[2:], *w])
        consumed = 0
    else:
        channels = _forward(op, a[1], w, groups)
        op.macs(1, [a[0], *space, *w])
        consumed = 1
    if groups == 1:
        op.contract(x, 1, weight, consumed)
    elif groups < x.shape[1]:
        op.contract(x, 1, None)
        op.trace.consumes(weight, consumed)
    if bias is not None:
        op.unify(op.axes(bias)[0], channels)
    op.give(op.out, [a[0], channels, *space])


def _slide(op: Op, k: int, axis: Axis, kernel: int) -> Axis:
    """The output's k-th spatial axis: the input's own, where the kernel has one element."""
    stride, padding = (op.get(name, [default]) for name, default in (("stride", 1), ("padding", 0)))
    steps = stride[min(k, len(stride) - 1)], padding[min(k, len(padding) - 1)]
    still = kernel == 1 and steps == (1, 0)
    if still and op.out.shape[2 + k] == axis.size:
        return axis
    op.freeze(axis, "the space that a convolution slides over")
    return op.spatial(op.out.shape[2 + k])


def _forward(op: Op, channels_in: Axis, w: list[Axis], groups: int) -> Axis:
    per_in, per_out = w[1].size, w[0].size // groups
    if groups == 1:
        op.unify(w[1], channels_in)
        return w[0]
    if per_in == 1:
        pair = factor(w[0], [groups, per_out]) if per_out > 1 else [w[0]]
        if pair is None:
            _freeze(op, channels_in, w[0])
            return w[0]
        op.unify(pair[0], channels_in)
        op.trace.scratch["groups"] = channels_in
        return w[0]
    inside, outside = factor(channels_in, [groups, per_in]), factor(w[0], [groups, per_out])
    if inside is not None:
        op.unify(inside[1], w[1])
    if inside is None or outside is None:  # then all groups stay, and one side may still shrink
        _freeze(op, *([channels_in, w[1]] if inside is None else inside[:1]))
        _freeze(op, w[0] if outside is None else outside[0])
        return w[0]
    op.unify(inside[0], outside[0])
    op.trace.scratch["groups"] = inside[0]
    return w[0]


_MISALIGNED = "the groups of a convolution do not line up with its channels"


def _freeze(op: Op, *axes: Axis) -> None:
    for axis in axes:
        op.freeze(axis, _MISALIGNED)


def _transposed(op: Op, channels_in: Axis, w: list[Axis], groups: int) -> Axis:
    op.unify(w[0], channels_in)
    if groups == 1:
        return w[1]
    pair = factor(channels_in, [groups, channels_in.size // groups])
    if pair is None:
        _freeze(op, channels_in)
        return product([op.fixed(groups, _MISALIGNED), w[1]])
    op.trace.scratch["groups"] = pair[0]
    return product([pair[0], w[1]])


@rule(aten.im2col)
def im2col(op: Op) -> None:
    """Channels become channels x kernel positions."""
    axes = op.axes(op.args["self"])
    kernel = op.out.shape[-2] // axes[-3].size
    for axis in axes[-2:]:
        op.freeze(axis, "the space that unfold slides over")
    columns = product([axes[-3], op.fixed(kernel, "kernel positions")])
    op.give(op.out, [*axes[:-3], columns, op.spatial(op.out.shape[-1])])


@rule(aten.col2im)
def col2im(op: Op) -> None:
    """The reverse."""
    axes = op.axes(op.args["self"])
    channels = op.out.shape[-3]
    pair = factor(axes[-2], [channels, axes[-2].size // channels])
    if pair is None:
        raise ValueError("the columns of fold do not line up with channels")
    op.freeze(pair[1], "kernel positions")
    op.freeze(axes[-1], "the space that fold writes to")
    op.give(op.out, [*axes[:-2], pair[0], *[op.spatial(n) for n in op.out.shape[-2:]]])


@rule(aten.unfold)
def unfold(op: Op) -> None:
    """Sliding windows along one dimension."""
    axes = op.axes(op.args["self"])
    d = op.args["dimension"] % len(axes)
    op.freeze(axes[d], "windows slide along it")
    axes[d] = op.spatial(op.out.shape[d])
    op.give(op.out, [*axes, op.spatial(op.out.shape[-1])])
