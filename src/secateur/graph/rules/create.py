"""Operations that make tensors from sizes alone, and those that return no tensor."""

from __future__ import annotations

from secateur.graph.axes import Axis
from secateur.graph.op import Op, aten, rule

# Nothing to name: plain numbers out, or bookkeeping.
CONSTANT = {
    aten._local_scalar_dense, aten.equal, aten.is_same_size, aten.sym_size, aten.item, aten.is_nonzero,
    aten._assert_async, aten._assert_tensor_metadata, aten.sym_numel, aten.sym_stride, aten.is_pinned,
}  # fmt: skip


@rule(aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like,
      aten.randint_like)  # fmt: skip
def like(op: Op) -> None:
    """The same shape as another tensor, now and after a cut."""
    op.give(op.out, op.axes(op.args["self"]))


@rule(aten.zeros, aten.ones, aten.empty, aten.full, aten.rand, aten.randn, aten.new_zeros, aten.new_ones,
      aten.new_empty, aten.new_full, aten.empty_strided, aten.new_empty_strided, aten.randint,
      aten.scalar_tensor, aten._efficientzerotensor, aten.empty_permuted)  # fmt: skip
def sized(op: Op) -> None:
    """A new tensor: its sizes are the user's (see functions.py), or nobody's."""
    axes = [Axis(size) for size in op.out.shape]
    for axis in axes:
        if axis.size > 1 and not op.trace.trusted:
            op.trace.pending[axis] = op.reason("the size of a new tensor")
    op.give(op.out, axes)


@rule(aten.arange, aten.linspace, aten.logspace, aten.eye, aten.tril_indices, aten.triu_indices,
      aten.hann_window, aten.randperm)  # fmt: skip
def enumerated(op: Op) -> None:
    """Values that depend on the index: never removable."""
    op.give(op.out, [op.fixed(size, "an enumeration") for size in op.out.shape])
