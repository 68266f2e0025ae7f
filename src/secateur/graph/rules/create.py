"""Operations that make tensors from sizes alone, and those that return no tensor."""

from __future__ import annotations

from secateur.graph.axes import Axis
from secateur.graph.op import Op, atens, rule

# Nothing to name: plain numbers out, or bookkeeping.
CONSTANT = set(
    atens(
        "_local_scalar_dense equal is_same_size sym_size item is_nonzero _assert_async "
        "_assert_tensor_metadata sym_numel sym_stride is_pinned"
    )
)


@rule(*atens("zeros_like ones_like empty_like full_like"))
def like(op: Op) -> None:
    """The same shape as another tensor, now and after a cut."""
    op.give(op.out, op.axes(op.args["self"]))


@rule(
    *atens(
        "zeros ones empty full rand randn new_zeros new_ones new_empty new_full empty_strided "
        "new_empty_strided randint scalar_tensor _efficientzerotensor empty_permuted"
    )
)
def sized(op: Op) -> None:
    """A new tensor: its sizes are the user's (see functions.py), or nobody's."""
    axes = [Axis(size) for size in op.out.shape]
    for axis in axes:
        if axis.size > 1 and not op.trace.trusted:
            op.trace.pending[axis] = op.reason("the size of a new tensor")
    op.give(op.out, axes)


@rule(*atens("arange linspace logspace eye tril_indices triu_indices hann_window randperm"))
def enumerated(op: Op) -> None:
    """Values that depend on the index: never removable."""
    op.give(op.out, [op.fixed(size, "an enumeration") for size in op.out.shape])
