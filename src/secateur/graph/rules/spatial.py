"""Pooling, resizing, sampling: geometry changes, batch and channels pass through."""

from __future__ import annotations

import torch

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
