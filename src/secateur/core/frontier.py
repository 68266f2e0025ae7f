"""The trade-off between what a network costs and how good it is, as a record and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from secateur.core.chart import Chart, Mark, svg
from secateur.core.page import Line, Page, Table, amount, milliseconds, plain, plural
from secateur.core.panel import Panel
from secateur.core.picture import write_svg

COSTS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "latency": "milliseconds"}


@dataclass(frozen=True)
class Point:
    """One network. cost: of the kind that the frontier is over.

    share: of the leading cost that it was allowed; 1 for the original. error: the standard error
    of the difference of its quality to the original's. dominated: another one is at most as costly
    and at least as good.
    """

    share: float
    cost: float
    quality: float
    error: float | None = None
    params: int = 0
    macs: int = 0
    bytes: int = 0
    latency_ms: float | None = None
    latency_error_ms: float | None = None
    dominated: bool = False


@dataclass(frozen=True)
class Frontier:
    """Networks of one model from large to small; `print(front)`, `front.plot("front.svg")`.

    cost: "macs", "params", "bytes" or "latency". dense: the original. points: what was tried.

    Example:
        >>> front = Frontier("Net", "macs", Point(1, 1000, 0.9),
        ...                  (Point(0.5, 500, 0.88), Point(0.6, 600, 0.87)))
        >>> print(front)
        Net: quality over MACs, 2 networks
                   share    cost  quality
        original  100.0%  1.00 k      0.9
                   60.0%     600     0.87  dominated
                   50.0%     500     0.88
    """

    name: str
    cost: str
    dense: Point
    points: tuple[Point, ...]
    lower_is_better: bool = False
    samples: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Mark what is dominated, and sort: the costliest first."""
        marked = mark_dominated([self.dense, *self.points], self.lower_is_better)
        object.__setattr__(self, "dense", marked[0])
        rest = sorted(marked[1:], key=lambda point: (-point.cost, -point.share))
        object.__setattr__(self, "points", tuple(rest))

    @property
    def best(self) -> tuple[Point, ...]:
        """The points that nothing dominates."""
        return tuple(point for point in self.points if not point.dominated)

    @property
    def page(self) -> Page:
        """What is printed."""
        timed = any(point.latency_ms is not None for point in self.points)
        columns = ("", "share", "cost", *(["MACs"] if timed else []), "quality", "")
        rows = [self._row(point, timed) for point in (self.dense, *self.points)]
        title = f"{self.name}: quality over {COSTS[self.cost]}, "
        title += plural(len(self.points), "network")
        items: list[Line | Table] = [Line(title, title=True)]
        items.append(Table(columns, tuple(rows), left=frozenset({0, len(columns) - 1})))
        if self.samples is not None:
            items.append(Line(f"quality: on {plural(self.samples, 'sample')}", "quiet"))
        items += [Line(f"note: {note}", "warn") for note in self.notes]
        return tuple(items)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    @property
    def chart(self) -> Chart:
        """What is plotted."""
        dense = self.dense
        marks = [
            Mark(dense.cost, dense.quality, "dense", None, "the original", not dense.dominated)
        ]
        marks += [
            Mark(
                point.cost,
                point.quality,
                "dominated" if point.dominated else "best",
                point.error,
                f"{point.quality:.4g} at {self._shown(point)} ({point.share:.1%} allowed)",
                not point.dominated,
            )
            for point in self.points
        ]
        y_label = "quality (lower is better)" if self.lower_is_better else "quality"
        return Chart(self.name, COSTS[self.cost], y_label, tuple(marks))

    @property
    def panel(self) -> Panel:
        """What a report shows."""
        return Panel("Trade-off", self.page, chart=self.chart)

    def plot(self, path: str | Path) -> Path:
        """Write the curve as an SVG file that needs nothing else; returns the path.

        Raises:
            FileError: The path does not end in .svg, or cannot be written.
        """
        return write_svg(path, svg(self.chart), "front.svg")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "cost": self.cost,
            "lower_is_better": self.lower_is_better,
            "samples": self.samples,
            "dense": asdict(self.dense),
            "points": [asdict(point) for point in self.points],
            "notes": list(self.notes),
        }

    def _row(self, point: Point, timed: bool) -> tuple[str, ...]:
        quality = f"{point.quality:.4g}"
        if point.error is not None and point is not self.dense:
            quality += f" ± {point.error:.2g}"
        return (
            "original" if point is self.dense else "",
            f"{point.share:.1%}",
            self._shown(point),
            *([amount(point.macs)] if timed else []),
            quality,
            "dominated" if point.dominated else "",
        )

    def _shown(self, point: Point) -> str:
        if self.cost == "latency":
            return milliseconds(point.cost)
        return amount(point.cost, "B" if self.cost == "bytes" else "")


def mark_dominated(points: Sequence[Point], lower_is_better: bool = False) -> list[Point]:
    """The points with `dominated` set: another is no costlier and no worse, and one of them better.

    Example:
        >>> [p.dominated for p in mark_dominated([Point(1, 9, 0.9), Point(1, 5, 0.9)])]
        [True, False]
    """
    sign = -1 if lower_is_better else 1
    return [replace(p, dominated=any(_beats(q, p, sign) for q in points)) for p in points]


def _beats(one: Point, other: Point, sign: int) -> bool:
    better = sign * (one.quality - other.quality)
    cheaper = other.cost - one.cost
    return better >= 0 and cheaper >= 0 and (better > 0 or cheaper > 0)
