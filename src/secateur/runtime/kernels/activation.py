"""Activation functions on vectors, to a few roundings of float32, without calls.

Exponential and tanh follow Cephes (S. Moshier, 1984). GELU comes from a rational fit of the normal
distribution, as exact as PyTorch's: relative to its input, not to an output far below zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi, sqrt

from secateur.runtime.kernels.ir import Function

_LOG2 = (0.693359375, -2.12194440e-4)  # ln 2 in two parts; the first has few bits
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_TANH = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
# The normal distribution is 1/2 + x P(x^2) / Q(x^2), to 7e-9 as far as _FAR, and 0 or 1 beyond
_FAR = 5.5
_ABOVE = (
    2.274966161940373e-08,
    6.352088312762445e-06,
    1.6882184595134794e-04,
    4.677236814399826e-03,
    3.3852274375527305e-02,
    0.3989422346390843,
)
_UNDER = (
    1.1975105133979495e-06,
    7.364626760526369e-05,
    1.8844228879733942e-03,
    2.864565610673228e-02,
    0.2515209866737031,
    1.0,
)
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves an integer in the low bits


def activate(f: Function, name: str, x: str) -> str:
    """An activation of `planes.ACTIVATIONS`; NaN stays NaN."""
    zero = f.constant(0)
    if name == "none":
        return x
    if name == "relu":
        return f.above(zero, x)
    if name == "relu6":
        return f.below(f.constant(6), f.above(zero, x))
    if name == "silu":
        return f.div(x, f.add(f.constant(1), exp(f, negative(f, x))))
    if name == "hardswish":
        part = f.below(f.constant(6), f.above(zero, f.add(x, f.constant(3))))
        return f.mul(x, f.mul(part, f.constant(1 / 6)))
    if name == "gelu_tanh":
        cube = f.fma(f.mul(x, x), f.constant(0.044715), f.constant(1))
        inner = f.mul(f.mul(x, f.constant(-2 * sqrt(2 / pi))), cube)
        return f.div(x, f.add(f.constant(1), exp(f, inner)))
    return _gelu(f, x)


def sigmoid(f: Function, x: str) -> str:
    """1 / (1 + exp(-x))."""
    one = f.constant(1)
    return f.div(one, f.add(one, exp(f, negative(f, x))))


def tanh(f: Function, x: str) -> str:
    """Hyperbolic tangent: an odd polynomial near zero, 1 - 2 / (exp(2x) + 1) elsewhere."""
    square = f.mul(x, x)
    near = f.fma(f.mul(square, x), _polynomial(f, _TANH, square), x)
    size = f.intrinsic("fabs", x)
    grown = exp(f, f.add(size, size))
    far = f.sub(f.constant(1), f.div(f.constant(2), f.add(grown, f.constant(1))))
    sign = f.intrinsic("copysign", far, x)
    return f.choose("olt", size, f.constant(0.625), near, sign)


def exp(f: Function, x: str) -> str:
    """Exponential; 0 and infinity beyond float32's range."""
    x = f.above(f.constant(-105), f.below(f.constant(90), x))
    shift = f.constant(_ROUND)
    whole = f.sub(f.fma(x, f.constant(1 / log(2)), shift), shift)
    value = _below_one(f, x, whole)
    # 2 ** whole in two halves: either alone would leave the range of normal numbers
    half = f.sub(f.fma(whole, f.constant(0.5), shift), shift)
    for part in (half, f.sub(whole, half)):
        power = f.bits("shl", f.add(part, shift), f.integers(23))
        value = f.mul(value, f.bits("add", power, f.integers(127 << 23)))
    return value


def falling(f: Function, x: str) -> str:
    """Exponential of numbers that are not above zero; 0 below -86, which softmax has lost."""
    least, shift = f.constant(-86), f.constant(_ROUND)
    near = f.above(least, x)
    shifted = f.fma(near, f.constant(1 / log(2)), shift)
    value = _below_one(f, near, f.sub(shifted, shift))
    kind = f"<{f.lanes} x i32>"
    power = f.value(f"bitcast {f.vector} {f.bits('shl', shifted, f.integers(23))} to {kind}")
    return f.choose("olt", x, least, f.constant(0), f.bits("add", value, power))


def _below_one(f: Function, x: str, whole: str) -> str:
    """`exp(x) / 2 ** whole`, for the whole number that is nearest to x / ln 2."""
    rest = f.fma(whole, f.constant(-_LOG2[0]), x)
    rest = f.fma(whole, f.constant(-_LOG2[1]), rest)
    return f.fma(f.mul(rest, rest), _polynomial(f, _EXP, rest), f.add(rest, f.constant(1)))


def negative(f: Function, x: str) -> str:
    """-x."""
    return f.value(f"fneg {f.vector} {x}")


def _gelu(f: Function, x: str) -> str:
    """The normal distribution's cumulative function times x."""
    least = f.constant(-_FAR)
    z = f.above(least, f.below(f.constant(_FAR), x))
    square = f.mul(z, z)
    ratio = f.div(_polynomial(f, _ABOVE, square), _polynomial(f, _UNDER, square))
    share = f.fma(z, ratio, f.constant(0.5))
    return f.mul(x, f.choose("olt", x, least, f.constant(0), share))


def _polynomial(f: Function, coefficients: Sequence[float], x: str) -> str:
    """Horner's rule, the highest power first."""
    value = f.constant(coefficients[0])
    for c in coefficients[1:]:
        value = f.fma(value, x, f.constant(c))
    return value
