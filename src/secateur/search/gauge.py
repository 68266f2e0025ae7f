"""Measures a trial against every goal of a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from secateur.core.batches import Call
from secateur.core.budget import Budget, Latency, PeakMemory, QualityBudget, measured
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.measured import Comparison
from secateur.core.page import amount
from secateur.measure.memory import peak_memory
from secateur.measure.paired import CLEAR, Judge
from secateur.measure.quality import Evaluate, Reading
from secateur.search.timing import Timing, slower_note, time_pair
from secateur.search.trial import Trial


@dataclass
class Finding:
    """What was measured of one trial.

    margins: for every goal how far inside the trial is, as a share of what is allowed; words: the
    same in sentences, one for each goal that is not met.
    """

    reading: Reading | None = None
    quality: Comparison | None = None
    timing: Timing | None = None
    peak: int | None = None
    margins: dict[str, float] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Gauge:
    """The goals of a budget, and the original as it was measured.

    Raises:
        RecipeError: A goal needs `evaluate` or an example that is not there, or the goals
            contradict each other or the metric.
        InfeasibleBudget: The original itself does not have the quality that is asked for.
        InputError: `evaluate` does not give what it must.
    """

    def __init__(
        self,
        budget: Budget,
        original: nn.Module,
        *,
        evaluate: Evaluate | None = None,
        example: Call | None = None,
        split: bool = True,
        seed: int = 0,
    ) -> None:
        goals = measured(budget)
        self.original, self.example = original, example
        self.quality = [goal for goal in goals if isinstance(goal, QualityBudget)]
        self.latency = [goal for goal in goals if isinstance(goal, Latency)]
        self.memory = [goal for goal in goals if isinstance(goal, PeakMemory)]
        self._check(goals, evaluate)
        self.peak = peak_memory(original, example).bytes if self.memory and example else 0
        self.judge: Judge | None = None
        self.lower = False
        self.allowed: list[float] = []
        if self.quality and evaluate is not None:
            self.judge = Judge(evaluate, original, split=split, seed=seed)
            self._aim(self.judge)

    @property
    def goals(self) -> Sequence[Budget]:
        """All of them; those of quality first."""
        return (*self.quality, *self.latency, *self.memory)

    def _check(self, goals: Sequence[Budget], evaluate: Evaluate | None) -> None:
        unknown = [goal for goal in goals if goal not in self.goals]
        if unknown:
            raise RecipeError(f"{unknown[0]!r} cannot be searched for")
        if self.quality and evaluate is None:
            raise RecipeError(
                f"{self.quality[0]!r} needs evaluate=",
                hint="a function of a model that gives its accuracy, or one value for each sample",
            )
        if (self.latency or self.memory) and self.example is None:
            goal = (*self.latency, *self.memory)[0]
            raise RecipeError(f"{goal!r} needs an example", hint="give one batch of inputs")

    def _aim(self, judge: Judge) -> None:
        """Which way is better, and how much is allowed, from the original's value."""
        before = judge.selection(judge.before).before
        ways = {goal.lower_wins(judge.lower_is_better) for goal in self.quality}
        if len(ways) > 1:
            raise RecipeError(
                "the budgets disagree on whether lower is better: "
                + " & ".join(map(repr, self.quality))
            )
        self.lower = ways.pop()
        if judge.lower_is_better is not None and judge.lower_is_better != self.lower:
            raise RecipeError(
                f"{self.quality[0]!r}: of {type(judge.function).__name__} "
                f"{'lower' if judge.lower_is_better else 'higher'} is better",
                hint="Drop(points=...) is for accuracies, Drop(nats=...) for losses",
            )
        self.allowed = [goal.allowed(before) for goal in self.quality]
        for goal, allowed in zip(self.quality, self.allowed, strict=True):
            if allowed < 0:
                raise InfeasibleBudget(
                    f"{goal!r} cannot be reached: the original itself has {before:.4g}",
                    hint="ask for less, or train the original further",
                )

    def measure(self, trial: Trial) -> Finding:
        """Measure a trial as far as the goals need it."""
        found = Finding()
        if self.judge is not None:
            self._measure_quality(trial, found, self.judge)
        self.time(trial, found)
        for goal in self.memory:
            found.peak = peak_memory(trial.model, self.example).bytes
            most = goal.ceiling(self.peak)
            found.margins[repr(goal)] = (most - found.peak) / max(most, 1)
            if found.peak > most:
                found.words.append(f"{goal!r}: {amount(found.peak, 'B')} at the peak")
        return found

    def time(self, trial: Trial, found: Finding) -> None:
        """Time a trial for every goal of latency.

        Of trials that were chosen by their times, the chosen one was lucky more often than not: a
        second call puts times that nothing was chosen by in the place of the first.
        """
        for k, goal in enumerate(self.latency):
            assert self.example is not None
            timing = time_pair(self.original, trial.runs or trial.model, self.example, goal)
            note = slower_note(timing)
            found.notes += [note] if note and note not in found.notes else []
            found.timing = timing if k == 0 else found.timing
            found.margins[repr(goal)] = timing.margin
            if timing.margin < 0:
                found.words.append(f"{goal!r}: {_took(goal, timing)}")

    def _measure_quality(self, trial: Trial, found: Finding, judge: Judge) -> None:
        found.reading = judge.read(trial.model, clear=self._clear)
        quality = found.quality = judge.selection(found.reading)
        worse = quality.worse(self.lower)
        self._check_direction(quality, worse)
        one = _one(judge, quality)
        for goal, allowed in zip(self.quality, self.allowed, strict=True):
            excess = worse + goal.z * (quality.error or 0.0) - allowed
            if excess > 0 and 0 < allowed < 2 * one and worse <= one * (1 + 1e-9):
                excess = 0.0
                found.notes.append(
                    f"{goal!r}: one of the {quality.samples} samples that are selected on is worth "
                    f"{one:.2g}, so a loss of one is not told from none; more samples tell more"
                )
            scale = allowed or 0.01 * abs(quality.before) or 1.0
            found.margins[repr(goal)] = -excess / scale
            if excess > 0:
                found.words.append(f"{goal!r}: {loss_in_words(quality, self.lower, allowed)}")

    def _clear(self, difference: float, error: float) -> bool:
        """Whether a difference of the quality decides, whatever the rest of the samples say."""
        worse = difference if self.lower else -difference
        out = any(worse - CLEAR * error > allowed for allowed in self.allowed)
        return out or all(worse + CLEAR * error <= allowed for allowed in self.allowed)

    def _check_direction(self, quality: Comparison, worse: float) -> None:
        """A metric that gets very much better by pruning is one of which lower is better."""
        said = any(getattr(goal, "lower_is_better", None) is not None for goal in self.quality)
        if self.lower or said or self.judge is None or self.judge.lower_is_better is not None:
            return
        if -worse > max(10 * max(self.allowed), 0.5 * abs(quality.before)):
            raise RecipeError(
                f"evaluate rises by pruning, from {quality.before:.4g} to {quality.after:.4g}: "
                "is it a loss?",
                hint="say Drop(..., lower_is_better=True) or Drop(nats=...); if it is not a loss, "
                "lower_is_better=False",
            )


def _one(judge: Judge, quality: Comparison) -> float:
    """What one sample is worth that is right or wrong; 0 for values of other kinds."""
    values = None if judge.before.samples is None else np.unique(judge.before.samples)
    if values is None or not quality.samples or len(values) > 2 or values[0] != 0:
        return 0.0
    return float(values[-1]) / quality.samples


def loss_in_words(quality: Comparison, lower: bool, allowed: float) -> str:
    """For example "0.031 ± 0.004 worse, 0.01 allowed"."""
    error = "" if quality.error is None else f" ± {quality.error:.2g}"
    return f"{quality.worse(lower):.3g}{error} worse, {allowed:.3g} allowed"


def _took(goal: Latency, timing: Timing) -> str:
    if isinstance(goal.limit, str):
        return f"{timing.value:.1%} of the original's time, up to {timing.bound:.1%} expected"
    return f"{timing.value:.3g} ms, up to {timing.bound:.3g} ms expected"
