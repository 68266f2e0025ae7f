"""Matrix products: the contracted dimensions are the same axis."""

from __future__ import annotations

import torch

from secateur.graph.op import Op, aten, rule


@rule(aten.mm, aten.bmm)
def mm(op: Op) -> None:
    """[.., n, k] @ [.., k, m]."""
    left, right = op.args["self"], op.args["mat2"]
    _product(op, left, right)


@rule(aten.addmm, aten.baddbmm, aten.addmm_, aten.baddbmm_)
def addmm(op: Op) -> None:
    """A matrix product plus a broadcast matrix."""
    batched = op.out.dim() == 3
    added = op.axes(op.args["self"])
    _product(op, op.args["batch1" if batched else "mat1"], op.args["batch2" if batched else "mat2"])
    named = op.axes(op.out)
    for axis, target in zip(added[::-1], named[::-1], strict=False):
        if axis.size == target.size:
            op.unify(axis, target)


def _product(op: Op, left: torch.Tensor, right: torch.Tensor) -> None:
    a, b = op.axes(left), op.axes(right)
    op.unify(a[-1], b[-2])
    batch = a[:-2]
    for x, y in zip(batch, b[:-2], strict=True):
        op.unify(x, y)
    if batch and op.trace.origin(left) is None and op.trace.origin(right) is None:
        batch[0].mark("batched")
    inner = b[-2] if a[-1].find().on_count is not None else a[-1]
    op.macs(1, [*batch, a[-2], inner, b[-1]])
    op.contract(left, len(a) - 1, right, len(b) - 2)
    op.give(op.out, [*batch, a[-2], b[-1]])


@rule(aten._grouped_mm)
def grouped_mm(op: Op) -> None:
    """[n, k] @ [experts, k, m], every row with its own expert's matrix."""
    left, right = op.args["self"], op.args["mat2"]
    a, b = op.axes(left), op.axes(right)
    if (len(a), len(b)) != (2, 3):
        raise ValueError("only rows by expert are understood")
    op.unify(a[1], b[1])
    op.freeze(b[0], "experts are picked by their number")
    for tensor in op.inputs[2:]:
        for axis in op.axes(tensor):
            op.freeze(axis, "rows are handed out by it")
    op.contract(left, 1, right, 1)
    op.give(op.out, [a[0], b[2]])


@rule(aten.mv, aten.dot, aten.vdot)
def mv(op: Op) -> None:
    """[n, k] @ [k], or [k] . [k]."""
    left, right = op.args["self"], op.args.get("vec", op.args.get("tensor", op.args.get("other")))
    a, b = op.axes(left), op.axes(right)
    op.unify(a[-1], b[0])
    op.contract(left, len(a) - 1, right, 0)
    op.give(op.out, a[:-1])


@rule(aten.addmv)
def addmv(op: Op) -> None:
    """A matrix-vector product plus a vector."""
    left, right = op.args["mat"], op.args["vec"]
    a, b = op.axes(left), op.axes(right)
    op.unify(a[1], b[0])
    for axis in op.axes(op.args["self"]):
        if axis.size == a[0].size:
            op.unify(axis, a[0])
    op.contract(left, 1, right, 0)
    op.give(op.out, [a[0]])


@rule(aten.linear, aten.mkldnn_linear)
def linear(op: Op) -> None:
    """[.., k] @ [m, k]^T + [m], where it is not taken apart."""
    x, weight, bias = op.args["input"], op.args["weight"], op.get("bias")
    a, w = op.axes(x), op.axes(weight)
    op.unify(a[-1], w[1])
    if bias is not None:
        op.unify(op.axes(bias)[0], w[0])
    op.macs(1, [*a, w[0]])
    op.contract(x, len(a) - 1, weight, 1)
    op.give(op.out, [*a[:-1], w[0]])


@rule(aten._trilinear)
def trilinear(op: Op) -> None:
    """Three factors broadcast against each other and summed over some dimensions (nn.Bilinear)."""
    operands = []
    for k in (1, 2, 3):
        axes = op.axes(op.args[f"i{k}"])
        for d in sorted(op.args[f"expand{k}"]):
            axes.insert(d, op.fixed(1, ""))
        operands.append(axes)
    summed = set(op.args["sumdim"])
    named = []
    for d in range(len(operands[0])):
        real = [axes[d] for axes in operands if axes[d].size != 1]
        for other in real[1:]:
            op.unify(real[0], other)
        named.append(real[0] if real else operands[0][d])
    for k, axes in enumerate(operands, start=1):
        inserted = set(op.args[f"expand{k}"])
        dims = [d for d in range(len(axes)) if d not in inserted]
        for position, d in enumerate(dims):
            if d in summed:
                op.contract(op.args[f"i{k}"], position)
    op.give(op.out, [axis for d, axis in enumerate(named) if d not in summed])


@rule(aten._cdist_forward, aten._euclidean_dist)
def cdist(op: Op) -> None:
    """Distances between rows: a sum over the last dimension of differences."""
    x1, x2 = op.args["x1"], op.args["x2"]
    a, b = op.axes(x1), op.axes(x2)
    op.unify(a[-1], b[-1])
    for x, y in zip(a[:-2], b[:-2], strict=True):
        op.unify(x, y)
    a[-1].mark("statistical")
    op.contract(x1, len(a) - 1)
    op.contract(x2, len(b) - 1)
    op.give(op.out, [*a[:-1], b[-2]])
