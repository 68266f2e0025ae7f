"""What was measured of one model, and how the reasons for what stays are summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from secateur.core.page import Line, amount, milliseconds, plural
from secateur.core.plan import Reason


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median of `runs` runs, and the distance of the quartiles.

    threads: of PyTorch inside an operation, on the CPU. compiled: `torch.compile` was on.
    """

    median_ms: float
    spread_ms: float
    runs: int
    threads: int
    device: str = "cpu"
    compiled: bool = False

    def __str__(self) -> str:
        """For example "4.21 ms (spread 0.081 ms)"."""
        return f"{milliseconds(self.median_ms)} (spread {milliseconds(self.spread_ms)})"

    @property
    def error_ms(self) -> float:
        """The standard error of the median, if the runs scatter as a normal distribution."""
        return 0.929 * self.spread_ms / self.runs**0.5

    @property
    def conditions(self) -> str:
        """How it was measured, in words."""
        where = f"{self.device}, {plural(self.threads, 'thread')}" if self.on_cpu else self.device
        return f"median of {plural(self.runs, 'run')}, {where}" + (", compiled" * self.compiled)

    @property
    def on_cpu(self) -> bool:
        """Whether threads mean anything."""
        return self.device.startswith("cpu")


@dataclass(frozen=True)
class Comparison:
    """The quality of a model before and after, on the same data.

    error: the standard error of the difference, or a bound on it; None where it is not known.
    samples: how many there were; None where it is not known. data: "held out" (nothing was selected
    on them), "selection" (something was), "all" (there was but one set of data).

    Example:
        >>> print(Comparison(0.8708, 0.8621, 0.0021, 5000, "held out"))
        0.8708 -> 0.8621 (-0.0087 ± 0.0021), on 5,000 samples that nothing was selected on
    """

    before: float
    after: float
    error: float | None = None
    samples: int | None = None
    data: Literal["all", "selection", "held out"] = "all"

    def worse(self, lower_is_better: bool = False) -> float:
        """How much worse it is after, in the metric's own unit."""
        return self.after - self.before if lower_is_better else self.before - self.after

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between which values the change lies with 95 % confidence, by its standard error.

        Example:
            >>> low, high = Comparison(0.8708, 0.8621, 0.0021).interval
            >>> f"{low:.4f} {high:.4f}"
            '-0.0128 -0.0046'
        """
        if not self.error:
            return None
        change, reach = self.after - self.before, 1.96 * self.error
        return change - reach, change + reach

    def __str__(self) -> str:
        """The values, the difference, its standard error, and whose samples."""
        error = "" if self.error is None else f" ± {self.error:.2g}"
        change = f"{self.before:.4g} -> {self.after:.4g} ({self.after - self.before:+.2g}{error})"
        where = "" if self.samples is None else f", on {plural(self.samples, 'sample')}"
        if self.data == "all":
            return change + where
        return (
            change
            + (where or ", on samples")
            + (
                " that nothing was selected on"
                if self.data == "held out"
                else " that were selected on"
            )
        )


@dataclass(frozen=True)
class Measured:
    """One model: parameters, multiply-accumulates of a run on the example, bytes, measurements.

    macs: None when not counted. bytes: of parameters and buffers. quality: what `evaluate` gave.
    peak: bytes in use during a call at most: weights, and the largest set of live activations.
    """

    params: int
    macs: int | None
    bytes: int
    latency: Latency | None = None
    quality: float | None = None
    peak: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """One line."""
        parts = [f"{self.params:,} parameters"]
        if self.macs is not None:
            parts.append(amount(self.macs, "MACs"))
        parts.append(amount(self.bytes, "B"))
        if self.latency is not None:
            parts.append(f"{self.latency}, {self.latency.conditions}")
        return " · ".join(parts)


@dataclass(frozen=True)
class Verification:
    """How a cut was proven: the cut model against the masked original, on the example.

    max_difference: the largest relative difference of the outputs. statistical: a normalisation
    runs over a cut axis, so that zeroing alone would not give the same function. method: what the
    cut model was compared with.
    """

    ok: bool
    statistical: bool
    max_difference: float
    tolerance: float
    method: str
    note: str = ""

    @property
    def lines(self) -> tuple[Line, ...]:
        """What to print."""
        if not self.ok:
            return (Line(f"not verified: {self.note or self.method}", "warn"),)
        proof = (
            f"verified: same outputs as the {self.method} on the example, largest difference "
            f"{self.max_difference:.1e} (tolerance {self.tolerance:.0e})"
        )
        return (Line(proof, "good"), *([Line(f"  {self.note}", "quiet")] if self.note else []))


@dataclass(frozen=True)
class Frozen:
    """One reason for which something stays: how often, and at which lines of code."""

    text: str
    count: int = 1
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For example "3 x the size 64 is written in the code (net.py:12, net.py:40)"."""
        shown = ", ".join(self.where[:3]) + (", ..." if len(self.where) > 3 else "")
        return f"{self.count} x {self.text}" + (f" ({shown})" if shown else "")

    @staticmethod
    def group(reasons: Iterable[Reason | Frozen]) -> tuple[Frozen, ...]:
        """Sum up by text, the most frequent first.

        Example:
            >>> for item in Frozen.group([Reason("an output", "", "a.py:3"), Reason("an input"),
            ...                           Reason("an output", "", "a.py:9")]):
            ...     print(item)
            2 x an output (a.py:3, a.py:9)
            1 x an input
        """
        counts: Counter[str] = Counter()
        places: dict[str, dict[str, None]] = {}
        for reason in reasons:
            where = reason.where if isinstance(reason, Frozen) else (reason.where,)
            counts[reason.text] += reason.count if isinstance(reason, Frozen) else 1
            places.setdefault(reason.text, {}).update(dict.fromkeys(w for w in where if w))
        return tuple(Frozen(text, n, tuple(places[text])) for text, n in counts.most_common())


def frozen_lines(frozen: Iterable[Frozen], word: str, most: int = 6) -> tuple[Line, ...]:
    """What to print about frozen parts; `word` is what the counts count."""
    groups = tuple(frozen)
    if not groups:
        return ()
    total = sum(group.count for group in groups)
    lines = [Line(f"frozen: {plural(total, word)}")]
    lines += [Line(f"  {group}", "quiet") for group in groups[:most]]
    if len(groups) > most:
        lines.append(Line(f"  and {plural(len(groups) - most, 'more reason')}", "quiet"))
    return tuple(lines)
