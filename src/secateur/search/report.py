"""What a search says: what it chose and why, or what would have been reachable."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.core.attempt import Attempt
from secateur.core.budget import Budget
from secateur.core.errors import InfeasibleBudget
from secateur.core.measured import Comparison
from secateur.core.page import plural
from secateur.search.gauge import Finding, Gauge, loss_in_words

_COSTS = {"macs": "MACs", "params": "parameters", "ns": "predicted time"}


def sentences(
    budget: Budget, gauge: Gauge, winner: Attempt, attempts: Sequence[Attempt], found: Finding,
    quality: Comparison | None, cost: str,
) -> tuple[str, ...]:  # fmt: skip
    """What was searched, what was found by the clock, and what weakens the claim."""
    which = "smallest" if gauge.quality else "largest"
    lines = [
        f"searched: {plural(len(attempts), 'network')} tried; the {which} that meets {budget!r} "
        f"keeps {_left(winner, cost)}"
    ]
    if quality is not None:
        lines += _held(gauge, quality)
    if found.timing is not None:
        timing = found.timing
        share = timing.after.median_ms / timing.before.median_ms
        lines.append(
            f"latency: {share:.1%} of the original's time in turns with it, {timing.after} against "
            f"{timing.before}; {timing.after.conditions}"
        )
    return tuple(lines)


def _held(gauge: Gauge, quality: Comparison) -> list[str]:
    """What has to be said where the samples held out, or the lack of them, weaken the claim."""
    worse = quality.worse(gauge.lower)
    lines = [
        f"{goal!r} is not met on the samples held out: {loss_in_words(quality, gauge.lower, most)}"
        for goal, most in zip(gauge.quality, gauge.allowed, strict=True)
        if quality.data == "held out" and worse > most
    ]
    if quality.data == "all":
        error = ", whose standard error is not known" if quality.error is None else ""
        lines.append(
            f"selected and reported on the same data{error}: where evaluate gives one value for "
            "each sample, halves of them do that"
        )
    return lines


def refusal(
    budget: Budget, gauge: Gauge, attempts: Sequence[Attempt], cost: str
) -> InfeasibleBudget:
    """The error for a search that found nothing: what is reachable, goal by goal."""
    tried = [attempt for attempt in attempts if attempt.margins]
    said: list[str] = []
    for goal in gauge.goals:
        name = repr(goal)
        best = max(tried, key=lambda a: (a.margins[name], a.left or 0), default=None)
        if best is not None and best.margins[name] < 0:
            said.append(f"{name} was not reached: the best is {_reached(best, goal, cost)}")
    if not said and tried:
        closest = max(tried, key=lambda attempt: min(attempt.margins.values()))
        said.append(
            f"{budget!r} was not reached, though each part alone was: the closest network keeps "
            f"{_left(closest, cost)}; {closest.why}"
        )
    if not said:
        said.append(f"{budget!r} was not reached")
    hint = "allow more, widen the scope, add a unit, or repair with more data (recover=)"
    return InfeasibleBudget("; ".join(said), hint=hint)


def _reached(attempt: Attempt, goal: Budget, cost: str) -> str:
    name = repr(goal)
    part = next((p for p in attempt.why.split("; ") if p.startswith(name)), attempt.why)
    return f"{part.removeprefix(f'{name}: ')} with {_left(attempt, cost)} left"


def _left(attempt: Attempt, cost: str) -> str:
    return f"{attempt.left:.1%} of the {_COSTS[cost]}" if attempt.left is not None else "nothing"
