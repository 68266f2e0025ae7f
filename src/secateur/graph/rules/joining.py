"""Concatenation, stacking and their reverses; padding."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.graph.axes import Axis, concat, factor, split, unify
from secateur.graph.op import Op, aten, atens, normal_dim, rule


@rule(aten.cat, aten.concat, aten._cat)
def cat(op: Op) -> None:
    """The joined dimension is a concatenation; the others are the same."""
    rank = op.out.dim()
    tensors = [t for t in op.args["tensors"] if not (t.dim() == 1 and t.numel() == 0 and rank > 1)]
    d = normal_dim(op.get("dim", 0), rank)
    named = op.axes(tensors[0])
    for tensor in tensors[1:]:
        for i, axis in enumerate(op.axes(tensor)):
            if i != d:
                op.unify(named[i], axis)
    named[d] = concat(op.axes(tensor)[d] for tensor in tensors)
    op.give(op.out, named)


@rule(aten.stack)
def stack(op: Op) -> None:
    """A new dimension that counts the tensors.

    Picking a tensor out again gives back its own axes (the last states of stacked LSTM layers);
    any other use makes the tensors' axes the same.
    """
    tensors = op.args["tensors"]
    pieces = [op.axes(tensor) for tensor in tensors]
    d = normal_dim(op.get("dim", 0), op.out.dim())
    op.give(op.out, [*pieces[0][:d], op.fixed(len(tensors), "a stack of tensors"), *pieces[0][d:]])
    for piece in pieces[1:]:
        for a, b in zip(pieces[0], piece, strict=True):
            op.trace.equate(("count", a), ("count", b), "stacked tensors have one shape")
    op.trace.watch(op.out, Stack(d, pieces))


@dataclass
class Stack:
    """What a tensor was stacked from, until it is used as a whole."""

    dim: int
    pieces: list[list[Axis]]

    def used(self) -> None:
        """The pieces are one: unify their axes."""
        for piece in self.pieces[1:]:
            for a, b in zip(self.pieces[0], piece, strict=True):
                unify(a, b)


def _unstack(op: Op, dim: int, index: int) -> list[Axis] | None:
    """The axes of one tensor of a stack, if `dim` is the stacked dimension."""
    tensor = op.args["self"]
    found = op.trace.watched(tensor)
    return (
        found.pieces[index]
        if isinstance(found, Stack) and dim % tensor.dim() == found.dim
        else None
    )


@rule(
    *atens(
        "split split_with_sizes chunk tensor_split unsafe_split unsafe_split_with_sizes "
        "unsafe_chunk split_copy split_with_sizes_copy"
    )
)
def split_rule(op: Op) -> None:
    """Consecutive pieces of one dimension."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.get("dim", 0), len(axes))
    sizes = [piece.shape[d] for piece in op.out]
    pieces = split(axes[d], sizes)
    if pieces is None:
        op.freeze(axes[d], f"split into {sizes}, which does not line up with its parts")
        pieces = [op.fixed(size, "a piece that does not line up") for size in sizes]
    for tensor, piece in zip(op.out, pieces, strict=True):
        op.give(tensor, [*axes[:d], piece, *axes[d + 1 :]])


@rule(aten.slice, aten.slice_copy, aten.narrow, aten.slice_inverse)
def slice_rule(op: Op) -> None:
    """A piece of one dimension; every k-th index is one factor of a product."""
    axes = op.axes(op.args["self"])
    d = normal_dim(op.get("dim", 0), len(axes))
    axis, size, out_size = axes[d], axes[d].size, op.out.shape[d]
    if out_size == size:
        op.give(op.out, axes)
        return
    end = op.get("end") if "length" not in op.args else op.args["start"] + op.args["length"]
    start, stop, step = slice(op.get("start"), end, op.get("step", 1)).indices(size)
    if step != 1:
        pair = (
            factor(axis, [size // step, step])
            if size % step == 0 and start < step and out_size * step == size
            else None
        )
        if pair is None:
            op.freeze(axis, f"every {step}th index is taken")
            piece = op.fixed(out_size, "every k-th index")
        else:
            op.freeze(pair[1], f"every {step}th index is taken")
            piece = pair[0]
    else:
        stop = max(stop, start)
        pieces = split(axis, [n for n in (start, stop - start, size - stop) if n])
        if pieces is None:
            op.freeze(axis, f"sliced at [{start}:{stop}], which does not line up with its parts")
            piece = op.fixed(out_size, "a slice that does not line up")
        else:
            before = pieces.pop(0) if start else Axis(0)
            piece = pieces.pop(0) if stop > start else Axis(0)
            after = pieces.pop(0) if size - stop else Axis(0)
            op.trace.scratch.setdefault("slices", []).append(
                (start, stop, size, before, piece, after)
            )
            if op.trace.stores(op.args["self"]):
                why = op.trace.reason("only a part of it was used on the example", "slice")
                op.trace.sliced.append((piece, [before, after], why))
    axes[d] = piece
    op.give(op.out, axes)


@rule(aten.select, aten.select_copy)
def select(op: Op) -> None:
    """One index picked by its number: that dimension must stay whole."""
    piece = _unstack(op, op.args["dim"], op.args["index"])
    if piece is not None:
        op.give(op.out, piece)
        return
    axes = op.axes(op.args["self"])
    d = normal_dim(op.args["dim"], len(axes))
    op.freeze(axes[d], "one index is picked by its number")
    op.give(op.out, axes[:d] + axes[d + 1 :])


@rule(aten.unbind, aten.unbind_copy)
def unbind(op: Op) -> None:
    """Every index picked by its number."""
    pieces = [_unstack(op, op.get("dim", 0), k) for k in range(len(op.out))]
    if None not in pieces:
        for tensor, piece in zip(op.out, pieces, strict=True):
            op.give(tensor, piece or [])
        return
    axes = op.axes(op.args["self"])
    d = normal_dim(op.get("dim", 0), len(axes))
    op.freeze(axes[d], "its indices are unbound one by one")
    for tensor in op.out:
        op.give(tensor, axes[:d] + axes[d + 1 :])


@rule(aten.constant_pad_nd)
def pad(op: Op) -> None:
    """Constants before and after: a concatenation with two new parts."""
    axes, amounts = op.axes(op.args["self"]), op.args["pad"]
    for k in range(len(amounts) // 2):
        d = len(axes) - 1 - k
        before, after = amounts[2 * k], amounts[2 * k + 1]
        if before == after == 0:
            continue
        if before < 0 or after < 0 or not axes[d].free:
            op.freeze(axes[d], "cropped by a negative padding")
            axes[d] = op.spatial(op.out.shape[d])
            continue
        ends = [op.fixed(n, "a padded part") if n else Axis(0) for n in (before, after)]
        axes[d] = concat([ends[0], axes[d], ends[1]])
    op.give(op.out, axes)
