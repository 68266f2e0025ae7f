"""Layer normalisation of tokens that lie as planes: one lane for a token."""

from __future__ import annotations

from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.ir import Function

_ARGUMENTS = (
    "ptr x", "ptr y", "ptr geometry", "i64 begin", "i64 end", "i64 unused", "i64 unused2",
)  # fmt: skip
NORM = ("in_pitch", "out_pitch", "features", "weight", "bias", "one_over", "eps")
"""The geometry; the last two are a float32 in the low half of an int64."""


def layer_norm() -> int:
    """The address of a function `(x, y, geometry, begin, end, 0, 0)` for tokens `[begin, end)`.

    Both ends are multiples of 16; buffers have that much room. `weight` and `bias` are addresses
    of `features` numbers. Mean and variance are taken in two passes, as a sum of squares would
    lose digits.
    """
    f = Function("norm", _ARGUMENTS, lanes=llvm.host().lanes, fused=llvm.host().fused)
    numbers = {name: f.read("%geometry", i) for i, name in enumerate(NORM[:3])}
    weight, bias = (f.read("%geometry", i, "ptr") for i in (3, 4))
    share, eps = (f.broadcast(f.at("%geometry", i, "i64")) for i in (5, 6))
    zero, features = f.constant(0), numbers["features"]
    with f.loop("%begin", "%end", f.lanes) as token:
        x, y = f.at("%x", token.index), f.at("%y", token.index)

        def plane(base: str, pitch: str, c: str) -> str:
            return f.at(base, f.integer("mul", c, numbers[pitch]))

        with f.loop(0, features, 1, [zero]) as total:
            value = f.load(plane(x, "in_pitch", total.index))
            total.after = [f.add(total.values[0], value)]
        mean = f.mul(total.values[0], share)
        with f.loop(0, features, 1, [zero]) as squares:
            apart = f.sub(f.load(plane(x, "in_pitch", squares.index)), mean)
            squares.after = [f.fma(apart, apart, squares.values[0])]
        variance = f.add(f.mul(squares.values[0], share), eps)
        scale = f.div(f.constant(1), f.intrinsic("sqrt", variance))
        with f.loop(0, features) as c:
            apart = f.sub(f.load(plane(x, "in_pitch", c.index)), mean)
            weights, shift = f.broadcast(f.at(weight, c.index)), f.broadcast(f.at(bias, c.index))
            done = f.fma(f.mul(apart, scale), weights, shift)
            f.store(done, plane(y, "out_pitch", c.index))
    return llvm.load(f.text()).address(f.name)
