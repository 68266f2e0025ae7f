"""Activation functions on vectors, to a few roundings of float32, without calls.

Exponential and tanh follow Cephes (S. Moshier, 1984). GELU comes from a fit of the scaled
complementary error function, so that it keeps its relative accuracy far below zero.
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
# 0.5 * erfc(x / sqrt(2)) * exp(x**2 / 2) / u is a polynomial of u = 1 / (1 + 0.34 x), x in [0, 14]
_SPREAD = 0.34
_TAIL = (
    -0.0269036743,
    0.143024959,
    -0.279816648,
    0.209127137,
    -0.0490260972,
    0.116986392,
    0.114833346,
    0.136156285,
    0.135618298,
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
    shifted = f.fma(x, f.constant(1 / log(2)), shift)
    whole = f.sub(shifted, shift)
    rest = f.fma(whole, f.constant(-_LOG2[0]), x)
    rest = f.fma(whole, f.constant(-_LOG2[1]), rest)
    value = f.fma(f.mul(rest, rest), _polynomial(f, _EXP, rest), f.add(rest, f.constant(1)))
    # 2 ** whole in two halves: either alone would leave the range of normal numbers
    half = f.sub(f.fma(whole, f.constant(0.5), shift), shift)
    for part in (half, f.sub(whole, half)):
        power = f.bits("shl", f.add(part, shift), f.integers(23))
        value = f.mul(value, f.bits("add", power, f.integers(127 << 23)))
    return value


def negative(f: Function, x: str) -> str:
    """-x."""
    return f.value(f"fneg {f.vector} {x}")


def _gelu(f: Function, x: str) -> str:
    """The normal distribution's cumulative function times x, from the lower tail."""
    one = f.constant(1)
    least = f.below(f.constant(14.6), x)  # beyond it the tail is less than any number
    z = f.above(f.constant(-14.6), least)
    u = f.div(one, f.fma(f.intrinsic("fabs", z), f.constant(_SPREAD), one))
    half = f.mul(z, f.constant(-0.5))
    square = f.mul(z, half)
    lost = f.fma(z, half, negative(f, square))  # what rounding took from the square
    power = exp(f, square)
    power = f.fma(power, lost, power)
    tail = f.mul(least, f.mul(power, f.mul(u, _polynomial(f, _TAIL, u))))
    return f.choose("ogt", x, f.constant(0), f.sub(x, tail), tail)


def _polynomial(f: Function, coefficients: Sequence[float], x: str) -> str:
    """Horner's rule, the highest power first."""
    value = f.constant(coefficients[0])
    for c in coefficients[1:]:
        value = f.fma(value, x, f.constant(c))
    return value
