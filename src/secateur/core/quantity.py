"""Quantities as people write them: numbers, shares ("50%"), amounts ("1.5M") and times ("4 ms")."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from numbers import Integral, Real

from secateur.core.errors import RecipeError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_TIMES = {"us": Fraction(1, 1000), "ms": Fraction(1), "s": Fraction(1000)}


def number(name: str, value: object) -> Fraction:
    """A non-negative, finite number, exactly as it is written in decimal."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RecipeError(
            f"{name}({value!r}): expected a number, not a {type(value).__name__}",
            hint=f"for example {name}({'0.5' if name == 'Sparsity' else '1_000_000'})",
        )
    if not math.isfinite(value):
        raise RecipeError(f"{name}({value!r}) is not finite")
    if value < 0:
        raise RecipeError(f"{name}({value!r}) is negative")
    return Fraction(int(value) if isinstance(value, Integral) else repr(float(value)))


def to_float(name: str, text: str) -> float:
    """The number in a text; raises `RecipeError` where there is none."""
    try:
        return float(text)
    except ValueError:
        raise RecipeError(f"{name}({text!r}): {text!r} is not a number") from None


def share(text: str) -> Fraction | None:
    """'50%' -> 1/2; None when the text does not end in %."""
    stripped = text.strip()
    if not stripped.endswith("%"):
        return None
    found = to_float("a share", stripped[:-1].strip())
    if not math.isfinite(found) or found < 0 or found > 100:
        raise RecipeError(f"{text!r} is not a share", hint="shares go from 0% to 100%")
    return Fraction(stripped[:-1].strip()) / 100


def amount(name: str, text: str, *, bytes_allowed: bool) -> Fraction:
    """'1e6', '1.5M', and for bytes '1.5MB', '2GiB'."""
    match = re.fullmatch(
        r"\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]*)\s*", text.lower()
    )
    suffix = match[2] if match else ""
    if bytes_allowed and suffix.endswith("b"):
        suffix = suffix[:-1]
    units = {**_DECIMAL, **_BINARY} if bytes_allowed else _DECIMAL
    if match is None or suffix not in units:
        example = "1_500_000, '1.5MB', '2GiB' or '50%'" if bytes_allowed else "1e6, '1.5M' or '50%'"
        raise RecipeError(f"{name}({text!r}) is not an amount", hint=f"for example {example}")
    value = Fraction(re.sub("[_,]", "", match[1]))
    if value < 0:
        raise RecipeError(f"{name}({text!r}) is negative")
    return value * units[suffix]


def milliseconds(name: str, text: str) -> Fraction:
    """'4ms', '0.5 s' or '250us' in milliseconds.

    Example:
        >>> milliseconds("Latency", "0.5 s")
        Fraction(500, 1)
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(us|ms|s)\s*", text.lower())
    if match is None:
        raise RecipeError(f"{name}({text!r}) is not a time", hint="for example '4ms' or '60%'")
    return Fraction(match[1]) * _TIMES[match[2]]


def plain(value: Fraction) -> str:
    """A decimal without exponent or trailing zeros, exact when it has at most 12 decimals."""
    return f"{float(round(value, 12)):.12f}".rstrip("0").rstrip(".")


def percent(value: Fraction) -> str:
    """A hundredth of the value, short."""
    return f"{float(value) / 100:g}"
