"""One network that a search tried: what it costs, what was measured, and whether it will do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from secateur.core.chart import Chart, Mark
from secateur.core.errors import FileError

_HINT = "the file was changed or damaged; delete it to search anew"
_OPTIONAL_COUNTS = ("params", "macs", "bytes", "samples", "peak")
_OPTIONAL_NUMBERS = (
    "quality", "worse", "error", "latency_ms", "latency_before_ms", "latency_error_ms",
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """A record of one trial; plain values only, so that a search can be resumed from a file.

    goal: the budget that was searched for, as its expression. share: of the leading cost that the
    trial was allowed. left: of the leading cost that it has; None if it could not be built. params,
    macs, bytes: what it costs. quality: on the samples that are selected on; worse: than the
    original by so much (negative: better), with its standard error over so many samples. latency:
    milliseconds, with the original's beside it. peak: bytes. margins: for every measured budget how
    far inside it is, as a share of what is allowed; negative outside. accepted: it meets all. why:
    in words.

    Example:
        >>> tried = Attempt("Drop(points=1.0)", 0.5, 0.49, margins={"Drop(points=1.0)": -0.2})
        >>> Attempt.from_dict(tried.to_dict()) == tried
        True
    """

    goal: str
    share: float
    left: float | None = None
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    quality: float | None = None
    worse: float | None = None
    error: float | None = None
    samples: int | None = None
    latency_ms: float | None = None
    latency_before_ms: float | None = None
    latency_error_ms: float | None = None
    peak: int | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    accepted: bool = False
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "margins": dict(self.margins)}

    @classmethod
    def from_dict(cls, value: object) -> Attempt:
        """Read one back.

        Raises:
            FileError: Anything that `to_dict` does not give.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(value, dict) or value.keys() != names:
            given = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise FileError(f"a record of a search has the wrong fields: {given}", hint=_HINT)
        _check(isinstance(value["goal"], str) and isinstance(value["why"], str), "texts")
        _check(isinstance(value["accepted"], bool), "accepted")
        _check(_is_number(value["share"]) and 0 < value["share"] <= 1, "share")
        left = value["left"]
        _check(left is None or (_is_number(left) and 0 <= left <= 1), "left")
        for name in _OPTIONAL_COUNTS:
            found = value[name]
            whole = isinstance(found, int) and not isinstance(found, bool) and found >= 0
            _check(found is None or whole, name)
        for name in _OPTIONAL_NUMBERS:
            _check(value[name] is None or _is_number(value[name]), name)
        margins = value["margins"]
        _check(isinstance(margins, dict), "margins")
        _check(all(isinstance(k, str) and _is_number(v) for k, v in margins.items()), "margins")
        return cls(**value)


def tradeoff(attempts: Sequence[Attempt]) -> Chart | None:
    """Quality, or else latency, over what is left of the cost; None of less than two points.

    Of those that meet all goals the smallest is the one that was chosen.

    Example:
        >>> tried = [Attempt("g", 1, left, quality=q, accepted=q > 0.8)
        ...          for left, q in ((0.7, 0.9), (0.5, 0.85), (0.4, 0.7))]
        >>> [mark.kind for mark in tradeoff(tried).marks]
        ['best', 'chosen', 'dominated']
    """
    for name, label in (("quality", "quality"), ("latency_ms", "latency, ms")):
        built = [
            (number, attempt)
            for number, attempt in enumerate(attempts, 1)
            if attempt.left is not None and getattr(attempt, name) is not None
        ]
        if len(built) < 2:
            continue
        fine = [(attempt.left, -number) for number, attempt in built if attempt.accepted]
        chosen = -min(fine, default=(0, 0))[1]
        marks = tuple(
            Mark(
                100 * attempt.left,  # type: ignore[operator]
                getattr(attempt, name),
                "chosen" if number == chosen else "best" if attempt.accepted else "dominated",
                label=f"try {number}: {attempt.why}",
                joined=False,
            )
            for number, attempt in built
        )
        return Chart("What was tried", "left, % of the original", label, marks)
    return None


def _is_number(value: object) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)  # type: ignore[arg-type]


def _check(fine: bool, name: str) -> None:
    if not fine:
        raise FileError(f"a record of a search has an impossible value of {name}", hint=_HINT)
