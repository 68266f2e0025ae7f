"""A sweep as a record: what was tried, what came of it, and which of it is worth having."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from secateur.core.errors import RecipeError
from secateur.core.frontier import COSTS, Frontier, Point
from secateur.core.page import Line, Page, Table, amount, milliseconds, plain, plural
from secateur.core.registry import did_you_mean

OBJECTIVES = (*COSTS, "quality")
_MOST_ROWS = 40


@dataclass(frozen=True)
class Tried:
    """One prune of a sweep.

    settings: what was chosen, by its place in the recipe. values: what was measured: params, macs,
    bytes, and latency (ms) and quality where they were. failed: why there are none. dominated:
    another one is at least as good in every objective, and better in one.
    """

    number: int
    settings: Mapping[str, Any]
    values: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""
    dominated: bool = False


@dataclass(frozen=True)
class Sweep:
    """All prunes of a sweep; `print(sweep)`, `sweep.best`, `sweep.frontier()`.

    objectives: what is minimised, and "quality", which is maximised unless lower_is_better. before:
    the values of the original.

    Example:
        >>> tried = (Tried(0, {"budget.macs": 0.5}, {"macs": 500, "quality": 0.9}),
        ...          Tried(1, {"budget.macs": 0.6}, {"macs": 600, "quality": 0.8}),
        ...          Tried(2, {"budget.macs": 0.1}, failed="the budget cannot be reached"))
        >>> sweep = Sweep("net", ("macs", "quality"), {"macs": 1000, "quality": 0.95}, tried)
        >>> print(sweep)
        net: 3 prunes, 1 of them not dominated
        trial   MACs  quality             budget.macs
        before  1.00 k     0.95
        ...
    """

    name: str
    objectives: tuple[str, ...]
    before: Mapping[str, float]
    trials: tuple[Tried, ...]
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        """Mark what is dominated; the best in the first objective come first."""
        done = [trial for trial in self.trials if not trial.failed]
        marked = [replace(t, dominated=any(self._beats(o, t) for o in done)) for t in done]
        marked.sort(key=lambda trial: (trial.dominated, self._signed(trial)))
        failed = [trial for trial in self.trials if trial.failed]
        object.__setattr__(self, "trials", (*marked, *failed))

    @property
    def best(self) -> tuple[Tried, ...]:
        """Those that nothing dominates."""
        return tuple(t for t in self.trials if not t.failed and not t.dominated)

    def frontier(self) -> Frontier | None:
        """Quality over the first cost, where these are among the objectives."""
        costs = [name for name in self.objectives if name in COSTS]
        if "quality" not in self.objectives or not costs:
            return None
        cost = costs[0]
        return Frontier(
            self.name,
            cost,
            self._point(cost, self.before),
            tuple(self._point(cost, t.values) for t in self.trials if not t.failed),
            lower_is_better=self.lower_is_better,
        )

    @property
    def page(self) -> Page:
        """What is printed."""
        names = list(dict.fromkeys(key for trial in self.trials for key in trial.settings))
        heads = [COSTS.get(name, name) for name in self.objectives]
        rows = [("before", *self._shown(self.before), "", *[""] * len(names))]
        done = [trial for trial in self.trials if not trial.failed]
        for trial in done[:_MOST_ROWS]:
            mark = "dominated" if trial.dominated else ""
            chosen = [_setting(trial.settings.get(name)) for name in names]
            rows.append((str(trial.number), *self._shown(trial.values), mark, *chosen))
        left = frozenset({0, *range(len(heads) + 1, len(heads) + 2 + len(names))})
        title = f"{self.name}: {plural(len(self.trials), 'prune')}, {len(self.best)} of them not "
        items: list[Line | Table] = [Line(title + "dominated", title=True)]
        items.append(Table(("trial", *heads, "", *names), tuple(rows), left=left))
        if len(done) > _MOST_ROWS:
            items.append(Line(f"and {len(done) - _MOST_ROWS} more, all in --json", "quiet"))
        reasons: dict[str, list[int]] = {}
        for trial in self.trials:
            if trial.failed:
                reasons.setdefault(trial.failed, []).append(trial.number)
        for reason, numbers in reasons.items():
            which = ", ".join(map(str, numbers[:6])) + (", …" if len(numbers) > 6 else "")
            items.append(Line(f"failed (trial {which}): {reason}", "warn"))
        return tuple(items)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        curve = self.frontier()
        return {
            "name": self.name,
            "objectives": list(self.objectives),
            "lower_is_better": self.lower_is_better,
            "before": dict(self.before),
            "trials": [asdict(trial) for trial in self.trials],
            "frontier": None if curve is None else curve.to_dict(),
        }

    def _signed(self, trial: Tried) -> tuple[float, ...]:
        """All objectives so that less is better."""
        return tuple(
            -trial.values[name] if name == "quality" and not self.lower_is_better
            else trial.values[name]
            for name in self.objectives
        )  # fmt: skip

    def _beats(self, one: Tried, other: Tried) -> bool:
        a, b = self._signed(one), self._signed(other)
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    def _point(self, cost: str, values: Mapping[str, float]) -> Point:
        return Point(
            share=values[cost] / self.before[cost] if self.before[cost] else 1.0,
            cost=values[cost],
            quality=values["quality"],
            params=int(values["params"]),
            macs=int(values["macs"]),
            bytes=int(values["bytes"]),
            latency_ms=values.get("latency"),
        )

    def _shown(self, values: Mapping[str, float]) -> list[str]:
        found = []
        for name in self.objectives:
            value = values.get(name)
            if value is None:
                found.append("")
            elif name == "latency":
                found.append(milliseconds(value))
            elif name == "quality":
                found.append(f"{value:.4g}")
            else:
                found.append(amount(value, "B" if name == "bytes" else ""))
        return found


def check_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if each is an objective and none comes twice.

    Raises:
        RecipeError: Otherwise.
    """
    for name in names:
        if name not in OBJECTIVES:
            raise RecipeError(
                f"there is no objective {name!r}", hint=did_you_mean(str(name), OBJECTIVES)
            )
    if not names or len(set(names)) < len(names):
        raise RecipeError(f"objectives {list(names)}: expected one or more, each once")
    return tuple(names)


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
