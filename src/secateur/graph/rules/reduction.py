"""Reductions and operations along one dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.graph.axes import Axis
from secateur.graph.op import Op, aten, atens, normal_dim, normal_dims, rule


@rule(
    *atens(
        "mean sum nansum var std var_mean std_mean amax amin max min prod logsumexp "
        "linalg_vector_norm norm any all median nanmedian aminmax count_nonzero"
    )
)
def reduce(op: Op) -> None:
    """Dimensions disappear; over a free axis the reduction changes when indices go."""
    tensor = op.args["self"]
    if "other" in op.args:  # max and min of two tensors
        from secateur.graph.rules.pointwise import pointwise

        return pointwise(op)
    axes = op.axes(tensor)
    dims = normal_dims(op.get("dim"), len(axes))
    op.select("self", dims)
    if op.func._opname.startswith(("var", "std")):
        for d in dims:
            op.several(axes[d])
    for out in op.outputs:
        if out.dim() == len(axes):
            op.give(out, [Axis(1) if d in dims else axis for d, axis in enumerate(axes)])
        elif out.dim() == len(axes) - len(dims):
            op.give(out, [axis for d, axis in enumerate(axes) if d not in dims])
        else:
            raise ValueError("an unusual reduction")
    free = [axes[d] for d in dims if axes[d].free]
    if free and len(op.outputs) == 2 and op.outputs[1].dtype == torch.int64:
        op.trace.watch(op.outputs[1], Positions(op, free))
    return None


@dataclass
class Positions:
    """Positions along reduced axes (of a maximum): whoever uses them needs the axes whole."""

    op: Op
    axes: list[Axis]

    def used(self) -> None:
        """Freeze the axes."""
        for axis in self.axes:
            self.op.freeze(axis, "the positions of its maxima are used")


@rule(aten._softmax, aten._log_softmax, aten._safe_softmax, aten.softmax, aten.log_softmax)
def softmax(op: Op) -> None:
    """Normalised along one dimension."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.args["dim"], len(axes))
    if axes[d].free:
        axes[d].mark("statistical")
        op.trace.restrict(op.index, ("softmax", "self", d, axes[d]))
    op.give(op.out, axes)


@rule(
    *atens(
        "cumsum cumprod cummax cummin logcumsumexp sort argsort topk argmax argmin kthvalue mode "
        "cumsum_ diff multinomial"
    )
)
def along(op: Op) -> None:
    """The order or the number of positions along a dimension enters the result."""
    axes = op.axes(op.args["self"])
    dims = (
        [normal_dim(op.get("dim", -1), len(axes))]
        if op.get("dim", -1) is not None
        else range(len(axes))
    )
    for d in dims:
        op.freeze(axes[d], f"{op.func._opname} runs along it")
    for out in op.outputs:
        if out.dim() == len(axes):
            named = [
                axis if axis.size == n else op.spatial(n)
                for axis, n in zip(axes, out.shape, strict=True)
            ]
        else:
            named = [axis for d, axis in enumerate(axes) if d not in dims]
        op.give(out, named)


@rule(aten.tril, aten.triu, aten.tril_, aten.triu_)
def triangle(op: Op) -> None:
    """A triangle with or without its diagonal: the last two dimensions lose the same indices.

    The order of what is left stays, and with it which side of the diagonal an element is on. How
    far it is from the diagonal changes: other triangles hold their dimensions.
    """
    axes = op.axes(op.args["self"])
    rows, columns = axes[-2:]
    beside = 1 if op.func._opname.startswith("triu") else -1
    if rows.size == columns.size and op.get("diagonal") in (0, beside):
        _square(op, rows, columns)
    else:
        _hold(op, rows, columns)
    op.give(op.out, axes)


@rule(aten.diagonal, aten.diagonal_copy)
def diagonal(op: Op) -> None:
    """Rows and columns of the same number: both lose the same indices."""
    axes = op.axes(op.args["self"])
    dims = {normal_dim(op.get(f"dim{k}"), len(axes)) for k in (1, 2)}
    rows, columns = (axes[d] for d in dims)
    if rows.size == columns.size and op.get("offset") == 0:
        _square(op, rows, columns)
    else:
        _hold(op, rows, columns)
        rows = op.spatial(op.out.shape[-1])
    op.give(op.out, [*[axis for d, axis in enumerate(axes) if d not in dims], rows])


@rule(aten.diag_embed)
def diag_embed(op: Op) -> None:
    """A dimension laid along a diagonal of zeros."""
    *axes, last = op.axes(op.args["self"])
    if op.get("offset") != 0:
        _hold(op, last)
        last = op.spatial(op.out.shape[-1])
    rank = op.out.dim()
    for d in sorted(normal_dim(op.get(f"dim{k}"), rank) for k in (1, 2)):
        axes.insert(d, last)
    op.give(op.out, axes)


def _square(op: Op, rows: Axis, columns: Axis) -> None:
    if rows.free or columns.free:
        op.unify(rows, columns)


def _hold(op: Op, *axes: Axis) -> None:
    for axis in axes:
        op.freeze(axis, f"{op.func._opname} depends on its positions")


@rule(aten._fft_r2c, aten._fft_c2c, aten._fft_c2r)
def fft(op: Op) -> None:
    """Transformed dimensions must stay whole."""
    axes = op.axes(op.args["self"])
    dims = {normal_dim(d, len(axes)) for d in op.args["dim"]}
    for d in dims:
        op.freeze(axes[d], "a Fourier transform runs along it")
    op.give(op.out, [op.spatial(n) if d in dims else axes[d] for d, n in enumerate(op.out.shape)])


@rule(aten.renorm, aten.renorm_)
def renorm(op: Op) -> None:
    """Every slice along one dimension is scaled by its own norm."""
    axes = op.axes(op.args["self"])
    for d, axis in enumerate(axes):
        if d != normal_dim(op.args["dim"], len(axes)):
            op.freeze(axis, "renorm takes norms over it")
    op.give(op.out, axes)
