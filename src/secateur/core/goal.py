"""Budgets that only a measurement can hold a network to: latency, peak memory, and quality."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Any, Literal

from secateur.core.ceiling import Budget, Limit
from secateur.core.errors import RecipeError
from secateur.core.quantity import milliseconds, number, plain, share

CONFIDENCE = 0.84
"""One-sided confidence of decisions about quality: one standard error."""


@dataclass(frozen=True, repr=False)
class Latency(Budget):
    """The most time that a call may take on this machine, as timed against the original.

    limit: a share of the original's time ("60%"), or a time ("4ms"); or `ms=4`. batch: the number
    of samples of the call that is timed; by default as many as the example has. threads: CPU
    threads inside an operation; by default as many as PyTorch uses.

    Example:
        >>> Latency("60%", batch=1), Latency("4 ms")
        (Latency('60%', batch=1), Latency(ms=4.0))
        >>> Latency(ms=4).ceiling(10), Latency("60%").ceiling(10)
        (4.0, 6.0)

    Raises:
        RecipeError: neither or both are given, or a number makes no sense.
    """

    limit: str | float
    batch: int | None = None
    threads: int | None = None

    def __init__(
        self,
        limit: str | None = None,
        *,
        ms: float | None = None,
        batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        if (limit is None) == (ms is None):
            raise RecipeError(
                "Latency() takes a share of the original's time or milliseconds, one of them",
                hint="for example Latency('60%') or Latency(ms=4)",
            )
        object.__setattr__(self, "limit", _time(limit) if ms is None else _positive_ms(ms))
        object.__setattr__(self, "batch", _count("Latency", "batch", batch))
        object.__setattr__(self, "threads", _count("Latency", "threads", threads))

    def ceiling(self, original_ms: float) -> float:
        """The most milliseconds, for an original that takes `original_ms`."""
        if isinstance(self.limit, str):
            return float(Fraction(self.limit[:-1]) / 100) * original_ms
        return self.limit

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        first = repr(self.limit) if isinstance(self.limit, str) else f"ms={self.limit!r}"
        return _expression("Latency", first, batch=self.batch, threads=self.threads)


class PeakMemory(Limit):
    """The most bytes in use during a call: weights, plus the largest set of live activations.

    Example:
        >>> PeakMemory("2MB"), PeakMemory("50%").ceiling(1000)
        (PeakMemory(2000000), 500)
    """

    kind = "bytes at the peak"
    binary = True


@dataclass(frozen=True, repr=False)
class QualityBudget(Budget):
    """A demand on what `evaluate` gives; the parent of `Drop` and `Quality`.

    confidence: one-sided, of the decision that a network meets it; the default, 0.84, demands that
    it is met with one standard error to spare.
    """

    confidence: float

    @property
    def z(self) -> float:
        """How many standard errors have to be spare."""
        return NormalDist().inv_cdf(self.confidence)

    def lower_wins(self, default: bool | None) -> bool:
        """Whether lower is better; `default` is what is known of the metric otherwise."""
        raise NotImplementedError

    def allowed(self, before: float) -> float:
        """How much worse than `before`, in the metric's own unit, it may get."""
        raise NotImplementedError


Kind = Literal["points", "relative", "absolute", "nats"]


@dataclass(frozen=True, repr=False)
class Drop(QualityBudget):
    """How much worse than the original's the quality may be.

    points: percentage points of a metric that goes to 1 or to 100; which of them is read off the
    original's value (above 1.5 it is 100) unless `scale` (1 or 100) says it. relative: a fraction
    of the original's value, or "2%". absolute: in the metric's own unit. nats: the same, for losses
    (lower is better). lower_is_better: by default no, unless the metric itself says so. confidence:
    see `QualityBudget`.

    Example:
        >>> Drop(1), Drop("2%"), Drop(nats=0.05), Drop(1).allowed(0.87), Drop(1).allowed(87)
        (Drop(points=1.0), Drop(relative=0.02), Drop(nats=0.05), 0.01, 1.0)

    Raises:
        RecipeError: not exactly one amount is given, or it makes no sense.
    """

    amount: float
    kind: Kind
    lower_is_better: bool | None
    scale: int | None

    def __init__(
        self,
        points: float | str | None = None,
        *,
        relative: float | str | None = None,
        absolute: float | None = None,
        nats: float | None = None,
        lower_is_better: bool | None = None,
        scale: int | None = None,
        confidence: float = CONFIDENCE,
    ) -> None:
        if isinstance(points, str):
            points, relative, nats = _worded(points, relative, nats)
        given: dict[Kind, Any] = {
            "points": points, "relative": relative, "absolute": absolute, "nats": nats,
        }  # fmt: skip
        given = {kind: value for kind, value in given.items() if value is not None}
        if len(given) != 1:
            raise RecipeError(
                f"Drop() takes one amount, not {len(given)}",
                hint="points, relative, absolute or nats: for example Drop(points=1.0)",
            )
        ((kind, value),) = given.items()
        object.__setattr__(self, "amount", _drop(kind, value))
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "lower_is_better", _direction(kind, lower_is_better, scale))
        object.__setattr__(self, "scale", _scale(kind, scale))
        object.__setattr__(self, "confidence", _confidence("Drop", confidence))

    def lower_wins(self, default: bool | None) -> bool:
        """Whether lower is better."""
        if self.kind == "nats":
            return True
        return bool(default) if self.lower_is_better is None else self.lower_is_better

    def allowed(self, before: float) -> float:
        """How much worse it may get, in the metric's own unit."""
        if self.kind == "relative":
            return self.amount * abs(before)
        if self.kind != "points":
            return self.amount
        scale = self.scale or (100 if abs(before) > 1.5 else 1)
        if not 0 <= before <= scale * (1 + 1e-6):
            raise RecipeError(
                f"{self!r}: points are of a metric from 0 to {scale}, and the original has "
                f"{before:.4g}",
                hint="for other metrics give relative=, absolute= or nats=",
            )
        return self.amount * scale / 100

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        low = self.lower_is_better
        spare = None if self.confidence == CONFIDENCE else self.confidence
        first = f"{self.kind}={self.amount!r}"
        return _expression("Drop", first, lower_is_better=low, scale=self.scale, confidence=spare)


@dataclass(frozen=True, repr=False)
class Quality(QualityBudget):
    """A floor (`at_least`) or a ceiling (`at_most`: lower is better) on what `evaluate` gives.

    It is a demand on the value on the user's data. The original's value on them is taken as it is;
    the standard error is that of the difference to it.

    Example:
        >>> Quality(at_least=0.9), Quality(at_most=2.1).allowed(2.0) < 0.11
        (Quality(at_least=0.9), True)

    Raises:
        RecipeError: not exactly one of them is given, or it is not a finite number.
    """

    limit: float
    lower: bool

    def __init__(
        self,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        confidence: float = CONFIDENCE,
    ) -> None:
        if (at_least is None) == (at_most is None):
            raise RecipeError(
                "Quality() takes at_least or at_most, one of them",
                hint="for example Quality(at_least=0.9), or Quality(at_most=2.1) for a loss",
            )
        value = at_most if at_least is None else at_least
        object.__setattr__(self, "limit", _finite("Quality", value))
        object.__setattr__(self, "lower", at_least is None)
        object.__setattr__(self, "confidence", _confidence("Quality", confidence))

    def lower_wins(self, default: bool | None) -> bool:
        """Whether lower is better."""
        return self.lower

    def allowed(self, before: float) -> float:
        """How much worse than `before` it may get; negative where `before` is not good enough."""
        return self.limit - before if self.lower else before - self.limit

    def __repr__(self) -> str:
        """The expression that makes this budget."""
        first = f"{'at_most' if self.lower else 'at_least'}={self.limit!r}"
        spare = None if self.confidence == CONFIDENCE else self.confidence
        return _expression("Quality", first, confidence=spare)


def _expression(name: str, first: str, **others: object) -> str:
    said = [f"{key}={value!r}" for key, value in others.items() if value is not None]
    return f"{name}({', '.join([first, *said])})"


def _time(limit: object) -> str | float:
    if not isinstance(limit, str):
        raise RecipeError(
            f"Latency({limit!r}) does not say of what",
            hint=f"write Latency(ms={limit!r}), or a share such as Latency('60%')",
        )
    part = share(limit)
    if part is None:
        return _positive_ms(float(milliseconds("Latency", limit)))
    if not 0 < part <= 1:
        raise RecipeError(
            f"Latency({limit!r}) is not a share of the original",
            hint="it is the share of the time that stays: above 0% and at most 100%",
        )
    return f"{plain(part * 100)}%"


def _positive_ms(ms: object) -> float:
    value = float(number("Latency", ms))
    if value <= 0:
        raise RecipeError(f"Latency(ms={ms!r}) leaves no time", hint="it is above 0")
    return value


def _count(name: str, word: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RecipeError(f"{name}({word}={value!r}): expected an integer of at least 1")
    return value


def _worded(text: str, relative: Any, nats: Any) -> tuple[float | None, Any, Any]:
    """'1', '1 point', '2%' (of the original's value) or '0.05 nats' as (points, relative, nats)."""
    words = text.lower().strip()
    if words.endswith("%"):
        return None, text, nats
    value, _, unit = words.partition(" ")
    if unit.strip() not in ("", "point", "points", "nat", "nats"):
        raise RecipeError(
            f"Drop({text!r}): there is no unit {unit.strip()!r}",
            hint="for example '1 point', '2%' (of the original's value) or '0.05 nats'",
        )
    try:
        amount = float(value)
    except ValueError:
        raise RecipeError(
            f"Drop({text!r}) is not a number",
            hint="for example '1 point', '2%' (of the original's value) or '0.05 nats'",
        ) from None
    return (None, relative, amount) if unit.strip().startswith("nat") else (amount, relative, nats)


def _drop(kind: Kind, value: Any) -> float:
    if kind == "relative" and isinstance(value, str):
        found = share(value)
        if found is None:
            raise RecipeError(f"Drop(relative={value!r}) is not a share", hint="for example '2%'")
        value = float(found)
    amount = float(number(f"Drop {kind}", value))
    if kind == "relative" and amount >= 1:
        raise RecipeError(
            f"Drop(relative={value!r}) would allow everything",
            hint=f"it is a fraction below 1; did you mean Drop('{amount:g}%')?",
        )
    if kind == "points" and amount >= 100:
        raise RecipeError(
            f"Drop(points={value!r}) would allow everything", hint="100 points is all"
        )
    return amount


def _direction(kind: Kind, lower: object, scale: object) -> bool | None:
    if lower is not None and not isinstance(lower, bool):
        raise RecipeError(f"Drop(lower_is_better={lower!r}): expected True or False")
    if kind == "nats" and lower is not None:
        if not lower:
            raise RecipeError("Drop(nats=...) is for losses, of which lower is better")
        return None
    if kind == "points" and lower and scale is None:
        raise RecipeError(
            "Drop(points=...) of a metric of which lower is better needs its scale",
            hint="add scale=1 for error rates from 0 to 1, scale=100 for percentages",
        )
    return lower


def _scale(kind: Kind, scale: object) -> int | None:
    if scale is None:
        return None
    if kind != "points" or isinstance(scale, bool) or scale not in (1, 100):
        raise RecipeError(f"Drop(scale={scale!r}): it is 1 or 100, and belongs to points")
    return int(scale)  # type: ignore[call-overload]


def _confidence(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.5 <= value < 1:
        raise RecipeError(
            f"{name}(confidence={value!r}): expected a number from 0.5 to below 1",
            hint="0.84 is one standard error, 0.975 two, 0.5 none",
        )
    return float(value)


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RecipeError(f"{name}({value!r}): expected a finite number")
    return float(value)
