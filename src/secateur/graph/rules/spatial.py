"""Pooling, resizing, sampling: geometry changes, batch and channels pass through."""

from __future__ import annotations

import torch

from secateur.graph.axes import Axis, concat
from secateur.graph.op import Op, aten, rule


def _packets(*prefixes: str) -> list[object]:
    """All overload packets of ATen whose names start so (they differ between torch versions)."""
    names = {
        schema.name.split("::")[1]
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::")
    }
    return [
        getattr(aten, n) for n in sorted(names) if n.startswith(prefixes) and "backward" not in n
    ]


_FAMILIES = (
    "upsample_ _upsample_ avg_pool max_pool adaptive_ _adaptive_ reflection_pad replication_pad "
    "fractional_max_pool mkldnn_max_pool mkldnn_adaptive"
)


@rule(*_packets(*_FAMILIES.split()))
def spatial(op: Op) -> None:
    """The last dimensions follow the geometry; batch and channels pass through."""
    tensor = op.inputs[0]
    axes = op.axes(tensor)
    moved = _spatial_rank(op)
    if op.func._opname.startswith("avg_pool") and _over_neighbours(op, axes, moved):
        return
    for axis in axes[len(axes) - moved :]:
        op.freeze(axis, f"{op.func._opname} runs along it")
    for other in op.inputs[1:]:
        for d, axis in enumerate(op.axes(other)):
            if d < len(axes) - moved and axis.size == axes[d].size:
                op.unify(axis, axes[d])
            else:
                op.freeze(axis, f"{op.func._opname} reads it by position")
    for out in op.outputs:
        op.give(
            out,
            [*axes[: len(axes) - moved], *[op.spatial(n) for n in out.shape[len(axes) - moved :]]],
        )


def _over_neighbours(op: Op, axes: list[Axis], rank: int) -> bool:
    """A mean over neighbours along one free axis, as many as go in (local response normalisation).

    Every index has its own mean, over its neighbours among what is left: a statistic. The ends are
    constants, padded before or by the operation itself.
    """
    kernel, stride, padding = (_each(op, key, rank) for key in ("kernel_size", "stride", "padding"))
    wide = [k for k in range(rank) if kernel[k] > 1]
    if len(wide) != 1 or any(n != 1 for n in stride) or sum(padding) != padding[wide[0]]:
        return False
    d, window = len(axes) - rank + wide[0], kernel[wide[0]]
    around = axes[d].find()
    parts = list(around.parts) if around.kind == "concat" else [around]
    ends = [parts.pop(k) for k in (0, -1) if len(parts) > 1 and not parts[k].free]
    added = sum(end.size for end in ends) + 2 * padding[wide[0]]
    if added != window - 1 or not around.free:
        return False
    inside = concat(parts)
    inside.mark("statistical")
    op.trace.restrict(op.index, ("select", "self", d, around))
    op.trace.restrict(op.index, ("place", "self", d, inside))
    op.give(op.out, [*axes[:d], inside, *axes[d + 1 :]])
    return True


def _each(op: Op, name: str, rank: int) -> list[int]:
    """An argument of a pool, one number a dimension; no stride is that of the kernel."""
    given = op.get(name)
    if given is None or given == []:
        given = op.args["kernel_size"]
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * rank if len(numbers) == 1 else numbers


def _spatial_rank(op: Op) -> int:
    name = op.func._opname
    for rank in (1, 2, 3):
        if f"{rank}d" in name:
            return rank
    return {
        "upsample_linear": 1,
        "upsample_bilinear": 2,
        "upsample_bicubic": 2,
        "upsample_trilinear": 3,
    }.get(name.strip("_").removesuffix("_aa"), op.inputs[0].dim() - 2)


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d, aten.grid_sampler)
def grid_sampler(op: Op) -> None:
    """[n, c, *space] sampled at [n, *space, k]."""
    axes, grid = op.axes(op.args["input"]), op.axes(op.args["grid"])
    op.unify(axes[0], grid[0])
    for axis in [*axes[2:], *grid[1:]]:
        op.freeze(axis, "space that is sampled")
    op.give(op.out, [*axes[:2], *[op.spatial(n) for n in op.out.shape[2:]]])


@rule(aten.affine_grid_generator)
def affine_grid(op: Op) -> None:
    """[n, 2, 3] to a sampling grid."""
    axes = op.axes(op.args["theta"])
    for axis in axes:
        op.freeze(axis, "an affine map of space")
    op.give(op.out, [op.spatial(n) for n in op.out.shape])


def register_torchvision() -> None:
    """Rules for torchvision's own operations, once that library has been imported."""
    ops = torch.ops.torchvision
    try:
        packets = [ops.roi_align, ops.roi_pool]
    except (AttributeError, RuntimeError):
        return

    @rule(*packets)
    def roi_align(op: Op) -> None:
        """Regions cut out of a feature map: channels stay."""
        axes = op.axes(op.args["input"])
        for axis in axes[2:]:
            op.freeze(axis, "space that regions are cut from")
        for out in op.outputs:
            op.give(
                out, [op.spatial(out.shape[0]), axes[1], *[op.spatial(n) for n in out.shape[2:]]]
            )
