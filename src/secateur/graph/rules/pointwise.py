"""Elementwise operations: dimensions that broadcast against each other are the same axis."""

from __future__ import annotations

from secateur.graph.axes import Axis
from secateur.graph.op import Op, aten, atens, rule


@rule(
    *atens(
        "add_ sub_ mul_ div_ pow_ copy_ copy clone _to_copy contiguous alias detach detach_ "
        "lift_fresh lift dropout fill_ zero_ masked_fill masked_fill_ where "
        "_prelu_kernel relu_ hardtanh_ silu_ hardswish hardswish_ "
        "leaky_relu_ elu_ clamp_ sigmoid_ tanh_ hardsigmoid_ gelu_ celu_ exp_ sqrt_ neg_ erf "
        "conj_physical _conj resolve_conj real imag "
        "nan_to_num_ clamp_min_ clamp_max_ floor_ logical_not_ bitwise_not_ "
        "threshold_ mish_ softplus log_sigmoid_forward floor_divide "
        "rsub complex polar maximum minimum rsqrt_ square_ abs_ addcmul_ addcdiv_ "
        "lerp_ logical_and_ logical_or_ round_ sign_"
    )
)
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


@rule(
    *atens(
        "bernoulli bernoulli_ native_dropout _fused_dropout rrelu_with_noise normal_ uniform_ "
        "exponential_ normal_functional rand_like randn_like randint_like geometric_ cauchy_ "
        "log_normal_ poisson"
    )
)
def drawn(op: Op) -> None:
    """Random numbers: fewer of them are other ones, so that no cut could be verified."""
    pointwise(op)
    for tensor in op.outputs:
        for axis in op.axes(tensor):
            op.freeze(axis, "random numbers are drawn along it")
