"""What compiling a network gave, layer by layer, and the page that says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.measured import Latency
from secateur.core.page import Line, Page, Table, amount, milliseconds, plain

_LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Row:
    """One layer: how it was and how it is. ms: timed alone, with what was fused into it."""

    name: str
    kind: str
    density: float
    kernel: str
    dense_ms: float
    ms: float
    why: str = ""


@dataclass(frozen=True)
class Report:
    """before, after: the whole network, timed in turns. fast: whether it runs on kernels at all.

    difference: the largest of any output, relative to that output's largest value. dense_bytes: of
    the weights as they were; bytes: of weights and code as they are. block: positions by which
    layers on planes take turns (`engine.chain`); 0: one layer after the other.
    """

    name: str
    rows: tuple[Row, ...]
    before: Latency
    after: Latency
    fast: bool
    difference: float
    dense_bytes: int
    bytes: int
    notes: tuple[str, ...] = ()
    block: int = 0

    @property
    def gain(self) -> float:
        """How many times as fast it is as before."""
        return self.before.median_ms / max(self.after.median_ms, 1e-9) if self.fast else 1.0

    @property
    def page(self) -> Page:
        """What is printed."""
        where = self.before.conditions
        if self.fast:
            first = Line(
                f"{self.name}: {milliseconds(self.before.median_ms)} -> "
                f"{milliseconds(self.after.median_ms)} ({self.gain:.2f}x as fast; {where})",
                title=True,
            )
            proof = Line(
                f"verified: same outputs, largest difference {self.difference:.1e}; weights and "
                f"code {amount(self.dense_bytes, 'B')} -> {amount(self.bytes, 'B')}",
                "good",
            )
        else:
            first = Line(
                f"{self.name}: {milliseconds(self.before.median_ms)} ({where})", title=True
            )
            proof = Line("nothing to gain: the network runs as it was", "warn")
        table = Table(
            ("layer", "kind", "density", "dense ms", "ms", "kernel", ""),
            tuple(_cells(row) for row in self.rows),
            frozenset({0, 1, 5, 6}),
        )
        notes = tuple(Line(f"note: {note}", "warn") for note in self.notes)
        return (first, proof, *notes, *((table,) if self.rows else ()))

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "gain": self.gain}

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)


def faster(before: Latency, after: Latency) -> bool:
    """Whether the gain is more than noise.

    Example:
        >>> faster(Latency(10.0, 0.1, 20, 1), Latency(9.9, 0.1, 20, 1))
        False
    """
    noise = 2 * (before.error_ms**2 + after.error_ms**2) ** 0.5
    return before.median_ms - after.median_ms > max(noise, _LEAST_GAIN * before.median_ms)


def _cells(row: Row) -> tuple[str, ...]:
    times = (f"{row.dense_ms:.3f}", f"{row.ms:.3f}")
    return (row.name, row.kind, f"{row.density:.0%}", *times, row.kernel, row.why)
