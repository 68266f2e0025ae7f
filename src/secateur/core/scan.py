"""How much each place of a model can lose, and what that does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secateur.core.page import Line, Page, Table, plain, plural
from secateur.core.panel import Panel

METRICS = {
    "quality": "loss of quality",
    "relative": "relative difference of the outputs",
    "kl": "divergence of the outputs, in nats",
}


@dataclass(frozen=True)
class Sensed:
    """One place cut alone to one level.

    kept: indices that stay, by site (those of a tie move together). n: how many each has. error:
    what it does; standard_error: of it, where it is known. macs, params: what stays of the model's.
    """

    kept: Mapping[str, int]
    n: Mapping[str, int]
    error: float
    standard_error: float | None = None
    params: float = 1.0
    macs: float = 1.0

    @property
    def level(self) -> float:
        """The share of the indices that stays."""
        return sum(self.kept.values()) / sum(self.n.values())


@dataclass(frozen=True)
class Sensitivity:
    """What each place of a model does when it alone loses indices; `print(scan)`.

    metric: "quality" (how much worse `evaluate` gets), "relative" (the norm of the difference of
    the outputs over that of the outputs) or "kl".

    Example:
        >>> scan = Sensitivity("Net", "relative", (Sensed({"fc": 2}, {"fc": 4}, 0.25),))
        >>> print(scan)
        Net: relative difference of the outputs when one place alone is cut, 1 place
            50%
        fc  0.25
        >>> scan.as_database()
        {'fc': {4: 0.0, 2: 0.25}}
    """

    name: str
    metric: str
    sensed: tuple[Sensed, ...]
    samples: int | None = None
    notes: tuple[str, ...] = ()

    def as_database(self) -> dict[str, dict[int, float]]:
        """`{site: {kept count: error}}`, with an error of 0 for keeping all."""
        table: dict[str, dict[int, float]] = {}
        for item in self.sensed:
            for site, kept in item.kept.items():
                table.setdefault(site, {item.n[site]: 0.0})[kept] = item.error
        return table

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """The sites of every place, the most sensitive first."""
        worst: dict[tuple[str, ...], float] = {}
        for item in self.sensed:
            key = tuple(item.kept)
            worst[key] = max(worst.get(key, item.error), item.error)
        return tuple(sorted(worst, key=lambda key: -worst[key]))

    @property
    def page(self) -> Page:
        """What is printed: a row for each place, a column for each level."""
        levels = sorted({round(item.level, 2) for item in self.sensed}, reverse=True)
        cells = {(tuple(i.kept), round(i.level, 2)): f"{i.error:.3g}" for i in self.sensed}
        rows = [
            (_short(place), *(cells.get((place, level), "") for level in levels))
            for place in self.places
        ]
        title = f"{self.name}: {METRICS[self.metric]} when one place alone is cut, "
        items: list[Line | Table] = [Line(title + plural(len(rows), "place"), title=True)]
        items.append(Table(("", *(f"{level:.0%}" for level in levels)), tuple(rows)))
        if self.samples is not None:
            items.append(Line(f"on {plural(self.samples, 'sample')}", "quiet"))
        items += [Line(f"note: {note}", "warn") for note in self.notes]
        return tuple(items)

    @property
    def panel(self) -> Panel:
        """What a report shows."""
        return Panel("Sensitivity of each place", self.page)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "metric": self.metric,
            "samples": self.samples,
            "sensed": [asdict(item) for item in self.sensed],
            "notes": list(self.notes),
        }


def _short(place: tuple[str, ...]) -> str:
    return place[0] if len(place) == 1 else f"{place[0]} and {len(place) - 1} more"
