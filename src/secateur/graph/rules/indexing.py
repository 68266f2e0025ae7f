"""Look-ups: indexed dimensions must stay whole, the others pass through."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.graph.axes import Axis
from secateur.graph.op import Op, aten, atens, normal_dim, rule

_MASKS = (torch.bool, torch.uint8)


@rule(aten.embedding)
def embedding(op: Op) -> None:
    """Rows of a table."""
    rows, columns = op.axes(op.args["weight"])
    op.freeze(rows, "rows are looked up by their number")
    op.give(op.out, [*op.axes(op.args["indices"]), columns])


@rule(aten._embedding_bag, aten._embedding_bag_forward_only)
def embedding_bag(op: Op) -> None:
    """Sums of rows of a table."""
    rows, columns = op.axes(op.args["weight"])
    op.freeze(rows, "rows are looked up by their number")
    _whole(op, *op.inputs[1:])
    for position, tensor in enumerate(op.out):
        named = [op.spatial(n) for n in tensor.shape]
        if position == 0:
            named[1] = columns
        op.give(tensor, named)


def _layout(
    op: Op, tensor: Tensor, indices: list[Tensor | None]
) -> tuple[list[int], list[int], int]:
    """Indexed dimensions of the tensor, the others, and where the looked-up dimensions go."""
    indexed: list[int] = []
    starts: list[int] = []
    d = 0
    for index in indices:
        if index is None:
            d += 1
            continue
        width = index.dim() if index.dtype in _MASKS else 1
        indexed += range(d, d + width)
        starts.append(d)
        d += width
    rest = [i for i in range(tensor.dim()) if i not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    return indexed, rest, indexed[0] if adjacent else 0


def _looked_up(op: Op, indices: list[Tensor | None], shape: torch.Size) -> list[Axis]:
    """The axes of the index tensors, broadcast: what is looked up is laid out like the index."""
    named = [Axis(n) if n == 1 else None for n in shape]
    for index in indices:
        if index is None:
            continue
        if index.dtype in _MASKS:
            for axis in op.axes(index):
                op.freeze(axis, "a mask says which positions are looked up")
            return [op.spatial(n) for n in shape]
        for d, axis in enumerate(op.axes(index), start=len(shape) - index.dim()):
            other = named[d]
            if axis.size == 1 or axis.size != shape[d]:
                continue
            if other is None:
                named[d] = axis
            else:
                op.unify(other, axis)
    return [axis or op.spatial(n) for axis, n in zip(named, shape, strict=True)]


@rule(aten.index, aten._unsafe_index)
def index(op: Op) -> None:
    """Advanced indexing."""
    tensor = op.args["self"]
    axes = op.axes(tensor)
    indexed, rest, place = _layout(op, tensor, op.args["indices"])
    for d in indexed:
        op.freeze(axes[d], "its indices are looked up by their number")
    new = _looked_up(op, op.args["indices"], op.out.shape[place : place + op.out.dim() - len(rest)])
    before = [axes[d] for d in rest if d < place]
    after = [axes[d] for d in rest if d >= place]
    op.give(op.out, [*before, *new, *after])


@rule(aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put)
def index_put(op: Op) -> None:
    """Advanced assignment."""
    tensor, values = op.args["self"], op.args["values"]
    axes = op.axes(tensor)
    indexed, rest, place = _layout(op, tensor, op.args["indices"])
    for d in indexed:
        op.freeze(axes[d], "its indices are written by their number")
    _whole(op, *[index for index in op.args["indices"] if index is not None])
    indices = [index for index in op.args["indices"] if index is not None]
    wide = max(1 if index.dtype in _MASKS else index.dim() for index in indices)
    before, after = [d for d in rest if d < place], [d for d in rest if d >= place]
    target = [*[axes[d] for d in before], *[None] * wide, *[axes[d] for d in after]]
    for axis, there in zip(op.axes(values)[::-1], target[::-1], strict=False):
        if there is None:
            op.freeze(axis, "it is written by position")
        elif axis.size == there.size:
            op.unify(axis, there)
    op.give(op.out, axes)


def _whole(op: Op, *tensors: Tensor) -> None:
    """Positions are written: every one of these must stay."""
    for tensor in tensors:
        for axis in op.axes(tensor):
            op.freeze(axis, f"{op.func._opname} writes by position")


@rule(aten.index_select)
def index_select(op: Op) -> None:
    """Slices along one dimension by their numbers."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.args["dim"], len(axes))
    if axes:
        op.freeze(axes[d], "its indices are selected by their number")
        axes[d] = op.axes(op.args["index"])[0] if op.args["index"].dim() else Axis(1)
    op.give(op.out, axes)


def _aligned(op: Op, a: list[Axis], b: list[Axis], d: int, *, written: bool) -> None:
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if i == d:
            op.freeze(x, "its indices are looked up by their number")
            if written:
                op.freeze(y, "it is written by position")
        elif x.size == y.size:
            op.unify(x, y)
        else:
            op.freeze(x, "a part of it is looked up")
            op.freeze(y, "a part of another axis is looked up by it")


@rule(aten.gather)
def gather(op: Op) -> None:
    """One look-up along a dimension for every element of the index."""
    index_axes = op.axes(op.args["index"])
    d = normal_dim(op.args["dim"], len(index_axes))
    if op.args["self"].dim() == len(index_axes):
        _aligned(op, op.axes(op.args["self"]), index_axes, d, written=False)
    op.give(op.out, index_axes)


@rule(*atens("scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_"))
def scatter(op: Op) -> None:
    """The reverse of gather."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.args["dim"], len(axes))
    for name in ("index", "src"):
        other = op.args.get(name)
        if isinstance(other, Tensor) and other.dim() == len(axes):
            _aligned(op, axes, op.axes(other), d, written=True)
    op.give(op.out, axes)


@rule(aten.index_add, aten.index_add_, aten.index_copy, aten.index_copy_)
def index_add(op: Op) -> None:
    """Whole slices written along one dimension."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.args["dim"], len(axes))
    _aligned(op, axes, op.axes(op.args["source"]), d, written=True)
    _whole(op, op.args["index"])
    op.give(op.out, axes)


@rule(aten.index_fill, aten.index_fill_)
def index_fill(op: Op) -> None:
    """Whole slices overwritten along one dimension."""
    axes = op.axes(op.args["self"])
    op.freeze(
        axes[normal_dim(op.args["dim"], len(axes))], "its indices are written by their number"
    )
    _whole(op, op.args["index"])
    op.give(op.out, axes)


@rule(aten.masked_scatter, aten.masked_scatter_, aten.select_scatter, aten.slice_scatter)
def written(op: Op) -> None:
    """Elements are written by their positions: nothing may move."""
    _whole(op, *op.inputs)
    op.give(op.out, op.axes(op.args["self"]))


@rule(aten._pack_padded_sequence)
def pack(op: Op) -> None:
    """Time and batch become one dimension; features stay."""
    axes = op.axes(op.args["input"])
    for axis in axes[:2]:
        op.freeze(axis, "time and batch are packed")
    _whole(op, *op.inputs[1:])
    op.give(op.out[0], [op.spatial(op.out[0].shape[0]), *axes[2:]])
    op.give(op.out[1], [op.spatial(op.out[1].shape[0])])


@rule(aten._pad_packed_sequence)
def unpack(op: Op) -> None:
    """The reverse."""
    axes = op.axes(op.args["data"])
    op.freeze(axes[0], "time and batch are packed")
    _whole(op, *op.inputs[1:])
    op.give(op.out[0], [*[op.spatial(n) for n in op.out[0].shape[:2]], *axes[1:]])
    op.give(op.out[1], [op.spatial(n) for n in op.out[1].shape])


@rule(*atens("nonzero masked_select histc bincount unique_consecutive _unique2 repeat_interleave"))
def listed(op: Op) -> None:
    """Elements are listed or counted by their positions: everything stays."""
    for tensor in op.inputs:
        for axis in op.axes(tensor):
            op.freeze(axis, f"{op.func._opname} lists its positions")
    for out in op.outputs:
        op.give(out, [op.spatial(n) for n in out.shape])
