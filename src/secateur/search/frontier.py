"""The frontier: networks of many sizes, each measured, and which of them are worth having."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from secateur.core.batches import Call
from secateur.core.budget import Budget, Bytes, Latency
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.frontier import COSTS, Frontier, Point
from secateur.core.registry import did_you_mean
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.search.timing import time_pair
from secateur.search.trial import Build, Trial, leading, share_budget

LOW, HIGH = 0.1, 0.9


def frontier(
    build: Build,
    original: nn.Module,
    evaluate: Evaluate,
    *,
    cost: str = "macs",
    points: int = 8,
    example: Call | None = None,
    batch: int | None = None,
    threads: int | None = None,
    lower_is_better: bool | None = None,
    low: float = LOW,
    high: float = HIGH,
    seed: int = 0,
    on_point: Callable[[Point], None] | None = None,
) -> Frontier:
    """Build networks that keep evenly spread shares of a cost, and evaluate each on all the data.

    Nothing is selected, so that nothing is held out. With the cost "latency" the shares are of
    MACs, and every network is timed in turns with the original.

    Args:
        build: Makes a trial for a budget that can be counted.
        original: What they are compared with; left as it was.
        evaluate: See `measure.quality.Evaluate`.
        cost: "macs", "params", "bytes" or "latency".
        points: How many networks.
        example: The call that is timed.
        batch: Samples of that call; by default as many as the example has.
        threads: CPU threads inside an operation, when timing.
        lower_is_better: By default what `evaluate` says of itself, else no.
        low: The smallest share.
        high: The largest share.
        seed: Of what `evaluate` draws.
        on_point: Called with each network's point.

    Raises:
        RecipeError: An argument makes no sense.
        InfeasibleBudget: Not one of the networks could be built.
    """
    _check(cost, points, low, high, example)
    judge = Judge(evaluate, original, split=False, seed=seed)
    lower = bool(judge.lower_is_better) if lower_is_better is None else lower_is_better
    curve = _Curve(build, original, judge, cost)
    clock = Latency("100%", batch=batch, threads=threads) if cost == "latency" else None
    for k in range(points):
        share = high - k * (high - low) / max(points - 1, 1)
        point = curve.point(share, example, clock)
        if point is not None and on_point is not None:
            on_point(point)
    if curve.dense is None:
        raise curve.refused or RecipeError("there is no network to evaluate")
    samples = None if judge.before.samples is None else len(judge.before.samples)
    return Frontier(
        name=type(original).__name__,
        cost=curve.cost,
        dense=curve.dense,
        points=tuple(curve.points),
        lower_is_better=lower,
        samples=samples,
        notes=tuple(dict.fromkeys(curve.notes)),
    )


class _Curve:
    """The points so far; networks are measured and let go."""

    def __init__(self, build: Build, original: nn.Module, judge: Judge, cost: str) -> None:
        self.build, self.original, self.judge, self.cost = build, original, judge, cost
        self.kind = "macs" if cost == "latency" else cost
        self.points: list[Point] = []
        self.dense: Point | None = None
        self.notes: list[str] = []
        self.refused: InfeasibleBudget | None = None
        self.before_ms: list[float] = []

    def point(self, share: float, example: Call | None, clock: Latency | None) -> Point | None:
        """Build and measure one network; None if there is none, or it was measured before."""
        try:
            trial = self._trial(share)
        except InfeasibleBudget as error:
            self.refused = error
            self.notes.append(f"no network keeps only {share:.1%}: {error.message}")
            return None
        amounts = trial.amounts
        same = (amounts.params, amounts.macs, amounts.bytes)
        if any((p.params, p.macs, p.bytes) == same for p in self.points):
            return None
        quality = self.judge.selection(self.judge.read(trial.model))
        values: dict[str, Any] = {
            "params": amounts.params, "macs": amounts.macs, "bytes": amounts.bytes,
        }  # fmt: skip
        if clock is not None and example is not None:
            timing = time_pair(self.original, trial.model, example, clock)
            self.before_ms.append(timing.before.median_ms)
            values["latency_ms"] = timing.after.median_ms
            values["latency_error_ms"] = timing.after.error_ms
        found = Point(share, self._cost(values), quality.after, quality.error, **values)
        self.points.append(found)
        self._original(trial, quality.before)
        return found

    def _original(self, trial: Trial, quality: float) -> None:
        values: dict[str, Any] = {k: pair[0] for k, pair in trial.plan.predicted.items()}
        values = {k: values[k] for k in ("params", "macs", "bytes")}
        if self.before_ms:
            values["latency_ms"] = sorted(self.before_ms)[len(self.before_ms) // 2]
        self.dense = Point(1.0, self._cost(values), quality, **values)

    def _cost(self, values: dict[str, Any]) -> float:
        return values["latency_ms"] if self.cost == "latency" else values[self.cost]

    def _trial(self, share: float) -> Trial:
        trial = self.build(self._budget(share))
        kind = leading(trial, self.kind)
        if kind != self.kind:
            self.kind = kind
            self.cost = kind if self.cost != "latency" else self.cost
            return self._trial(share)
        return trial

    def _budget(self, share: float) -> Budget:
        if self.kind == "bytes":
            return Bytes(f"{100 * share:.6f}%")
        return share_budget(self.kind, share)


def _check(cost: str, points: int, low: float, high: float, example: Call | None) -> None:
    if cost not in COSTS:
        raise RecipeError(f"there is no cost {cost!r}", hint=did_you_mean(cost, COSTS))
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise RecipeError(f"points={points!r}: expected an integer of at least 1")
    if not 0 < low <= high <= 1:
        raise RecipeError(f"low={low!r}, high={high!r}: expected shares, 0 < low <= high <= 1")
    if cost == "latency" and example is None:
        raise RecipeError("cost='latency' needs an example", hint="give one batch of inputs")
