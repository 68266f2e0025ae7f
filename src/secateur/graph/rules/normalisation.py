"""Normalisations: per channel (exact to cut) or over channels (statistical)."""

from __future__ import annotations

from torch import Tensor

from secateur.graph.axes import Axis, factor
from secateur.graph.op import Op, aten, atens, normal_dim, rule


def _affine(op: Op, channels: Axis, *names: str) -> None:
    for name in names:
        tensor = op.get(name)
        if isinstance(tensor, Tensor):
            op.unify(op.axes(tensor)[0], channels)
            owner = op.trace.origin(tensor)
            if owner is not None:
                op.trace.norm_roles[owner] = {"weight": "scale", "bias": "shift"}.get(
                    name, "buffer"
                )


@rule(
    *atens(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "cudnn_batch_norm miopen_batch_norm _batch_norm_with_update _batch_norm_no_update "
        "_native_batch_norm_legit_functional"
    )
)
def batch_norm(op: Op) -> None:
    """Every channel by itself."""
    axes = op.axes(op.args["input"])
    _affine(op, axes[1], "weight", "bias", "running_mean", "running_var")
    always = op.func._opname == "_batch_norm_with_update" or op.get("running_mean") is None
    if op.get("training", op.get("train", always)):
        for dim in range(len(axes)):  # weight standardisation: statistics of what is there now
            if dim != 1 and axes[dim].free:
                axes[dim].mark("statistical")
                op.trace.restrict(op.index, ("moments", "input", dim, axes[dim]))
    for tensor in op.outputs:
        same = list(tensor.shape) == [axis.size for axis in axes]
        op.give(
            tensor,
            axes if same else [axes[1]] if tensor.shape == (axes[1].size,) else _plain(op, tensor),
        )


def _plain(op: Op, tensor: Tensor) -> list[Axis]:
    return [op.fixed(size, "saved statistics") for size in tensor.shape]


@rule(aten.native_layer_norm, aten._fused_rms_norm)
def layer_norm(op: Op) -> None:
    """Statistics over the last dimensions."""
    axes = op.axes(op.args["input"])
    count = len(op.args["normalized_shape"])
    for name, role in (("weight", "scale"), ("bias", "shift")):
        tensor = op.get(name)
        if isinstance(tensor, Tensor):
            for a, b in zip(op.axes(tensor), axes[-count:], strict=True):
                op.unify(a, b)
            owner = op.trace.origin(tensor)
            if owner is not None:
                op.trace.norm_roles[owner] = role
    for dim in range(len(axes) - count, len(axes)):
        op.normalise(dim)
    op.give(op.out[0], axes)
    for tensor in op.out[1:]:
        op.give(tensor, [*axes[:-count], *[Axis(1)] * (tensor.dim() - len(axes) + count)])


@rule(aten.native_group_norm)
def group_norm(op: Op) -> None:
    """Statistics inside each group of channels: groups are exact to cut, their inside is not."""
    axes, groups = op.axes(op.args["input"]), op.args["group"]
    pair = factor(axes[1], [groups, axes[1].size // groups])
    if pair is None:
        raise ValueError("channels do not line up with the groups of group norm")
    _affine(op, axes[1], "weight", "bias")
    for axis in axes[2:]:
        op.freeze(axis, "group norm takes statistics over it")
    op.trace.scratch["groups"] = pair[0]
    if pair[1].free:
        pair[1].mark("statistical")
        op.several(pair[1])
        op.trace.restrict(op.index, ("group_norm", "input", 1, axes[1]))
    op.give(op.out[0], axes)
    for tensor in op.out[1:]:
        op.give(tensor, [axes[0], pair[0]])


@rule(aten._weight_norm_interface)
def weight_norm(op: Op) -> None:
    """V times g over the norm of v, along every dimension but one."""
    v, g = op.args["v"], op.args["g"]
    axes, d = op.axes(v), normal_dim(op.get("dim", 0), v.dim())
    op.unify(op.axes(g)[d if g.dim() == v.dim() else 0], axes[d])
    for i, axis in enumerate(axes):
        if i != d and axis.free:
            axis.mark("statistical")
            op.contract(v, i)
    op.give(op.out[0], axes)
    op.give(op.out[1], op.axes(g))
