"""Elementwise operations: dimensions that broadcast against each other are the same axis."""

from __future__ import annotations

from secateur.graph.axes import Axis
from secateur.graph.op import Op, aten, rule


@rule(
    aten.add_, aten.sub_, aten.mul_, aten.div_, aten.pow_, aten.copy_, aten.copy, aten.clone, aten._to_copy,
    aten.contiguous, aten.alias, aten.detach, aten.detach_, aten.lift_fresh, aten.lift, aten.dropout,
    aten.native_dropout, aten.fill_, aten.zero_, aten.masked_fill, aten.masked_fill_, aten.where,
    aten.bernoulli, aten.bernoulli_, aten._prelu_kernel, aten.relu_, aten.hardtanh_, aten.silu_,
    aten.hardswish, aten.hardswish_, aten.leaky_relu_, aten.elu_, aten.clamp_, aten.sigmoid_, aten.tanh_,
    aten.hardsigmoid_, aten.gelu_, aten.celu_, aten.exp_, aten.sqrt_, aten.neg_, aten.erf, aten.conj_physical,
    aten._conj, aten.resolve_conj, aten.real, aten.imag, aten.rrelu_with_noise, aten.normal_, aten.uniform_,
    aten.exponential_, aten.nan_to_num_, aten.clamp_min_, aten.clamp_max_, aten.floor_, aten.logical_not_,
    aten.bitwise_not_, aten.threshold_, aten.mish_, aten.softplus, aten.log_sigmoid_forward, aten.floor_divide,
    aten.normal_functional, aten._fused_dropout, aten.rsub, aten.complex, aten.polar,
    aten.maximum, aten.minimum, aten.rsqrt_, aten.square_, aten.abs_, aten.addcmul_, aten.addcdiv_, aten.lerp_, aten.logical_and_, aten.logical_or_, aten.round_, aten.sign_,
)  # fmt: skip
def pointwise(op: Op) -> None:
    """Right-aligned broadcasting; dimensions of one index adapt."""
    for out in op.outputs:
        named: list[Axis | None] = [None] * out.dim()
        for tensor in op.inputs:
            shift = out.dim() - tensor.dim()
            if shift < 0:
                continue
            for i, axis in enumerate(op.axes(tensor), start=shift):
                if axis.size == 1 or axis.size != out.shape[i]:
                    continue
                other = named[i]
                if other is None:
                    named[i] = axis
                else:
                    op.unify(other, axis)
                    if other.find().on_count is not None:
                        named[i] = axis  # a constant takes the identity of what it meets
        op.give(out, [axis or Axis(size) for axis, size in zip(named, out.shape, strict=True)])


@rule(aten.bucketize, aten.searchsorted)
def bucketize(op: Op) -> None:
    """Where each element falls between boundaries, which all matter."""
    first, *others = op.inputs if "boundaries" in op.args else op.inputs[::-1]
    for tensor in others:
        for axis in op.axes(tensor):
            op.freeze(axis, "boundaries that elements are compared with")
    op.give(op.out, op.axes(first))
