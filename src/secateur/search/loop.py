"""The outer loop: from goals that have to be measured to one network that meets them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import nn

from secateur.core.attempt import Attempt
from secateur.core.batches import Call
from secateur.core.budget import Budget, counted, join, measured
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.measured import Comparison
from secateur.core.plan import Plan
from secateur.measure.quality import Evaluate
from secateur.search.bracket import Bracket
from secateur.search.gauge import Finding, Gauge
from secateur.search.report import refusal, sentences
from secateur.search.timing import Timing
from secateur.search.trial import Build, Trial, leading, share_budget

TRIALS = 7
LOW, HIGH = 0.03, 0.97
_SECOND_TIMINGS = 3
"""How often another network is looked for; after that, smaller ones that did are timed again."""


@dataclass(frozen=True)
class Found:
    """What a search gives back.

    trial: the winner. attempts: everything that was tried, in order. quality: of the winner, on the
    samples that nothing was selected on where there are such. timing, peak: of the winner, where a
    goal asked for it; peak_before: the original's bytes. lines: sentences for the report. plans:
    all that led to the winner where there were several cuts.
    """

    trial: Trial
    attempts: tuple[Attempt, ...]
    quality: Comparison | None
    timing: Timing | None
    peak: int | None
    peak_before: int | None
    lines: tuple[str, ...]
    plans: tuple[Plan, ...] = ()


def search(
    build: Build,
    original: nn.Module,
    budget: Budget,
    *,
    evaluate: Evaluate | None = None,
    example: Call | None = None,
    cost: str = "macs",
    trials: int = TRIALS,
    split: bool = True,
    seed: int = 0,
    resume: Iterable[Attempt] = (),
    on_trial: Callable[[Attempt], None] | None = None,
    sketch: Build | None = None,
    finish: Callable[[Trial], None] | None = None,
) -> Found:
    """Find a network that meets every part of a budget.

    One knob is turned: the share of the leading cost that stays. With a demand on quality the
    smallest network that meets everything is looked for; without one, the largest. Parts that can
    be counted are given to every trial. A trial is accepted with the noise of the measurements to
    spare: quality by the goal's confidence, latency by a bound that 19 of 20 later timings meet.
    The winner is timed once more at the end, since it was chosen by its times. Where nothing is
    asked of quality, shapes decide: trials are sketches, and only the winner is repaired.

    Args:
        build: Makes a trial for a budget that can be counted.
        original: What trials are compared with; left as it was.
        budget: Ceilings and goals, joined by `&`.
        evaluate: For goals of quality; see `measure.quality.Evaluate`.
        example: A call, for goals of latency and memory.
        cost: The leading cost, "macs" or "params"; parameters where the model has no MACs.
        trials: How many networks are built at most.
        split: Select on one half of the samples and report on the other, where `evaluate` gives one
            value for each.
        seed: Of the halves and of what `evaluate` draws.
        resume: Records of an earlier call with the same arguments; their trials are not repeated.
        on_trial: Called with each record.
        sketch: Makes a trial that is not repaired.
        finish: Repairs what `sketch` made, in place.

    Raises:
        InfeasibleBudget: No trial meets everything; the message says what is reachable.
        RecipeError, InputError: As `Gauge` raises.
    """
    if trials < 1:
        raise RecipeError(f"trials={trials!r}: expected an integer of at least 1")
    if not measured(budget):
        return Found(build(budget), (), None, None, None, None, ())
    gauge = Gauge(budget, original, evaluate=evaluate, example=example, split=split, seed=seed)
    if gauge.quality or sketch is None:
        sketch, finish = build, None
    return _Search(sketch, budget, gauge, cost, resume, on_trial, finish).run(trials)


class _Search:
    """One search in progress; holds the best trial so far, and no other."""

    def __init__(
        self,
        build: Build,
        budget: Budget,
        gauge: Gauge,
        cost: str,
        resume: Iterable[Attempt],
        on_trial: Callable[[Attempt], None] | None,
        finish: Callable[[Trial], None] | None,
    ) -> None:
        self.finish = finish
        self.make, self.budget, self.gauge, self.cost = build, budget, gauge, cost
        self.goal, self.ceilings = repr(budget), counted(budget)
        self.done = {_key(a.share): a for a in resume if a.goal == self.goal}
        self.on_trial = on_trial or (lambda attempt: None)
        self.attempts: list[Attempt] = []
        self.best: tuple[Attempt, Trial | None, Finding | None] | None = None
        self.refused: InfeasibleBudget | None = None
        self.smallest = bool(gauge.quality)

    def run(self, trials: int) -> Found:
        """Try, look, turn the knob; a winner that is withdrawn gives one more turn."""
        bracket = Bracket(self.smallest, LOW, HIGH)
        self._hunt(bracket, trials)
        withdrawn = 0
        while self.best is not None:  # every turn takes one of the accepted, or ends
            if (found := self._settled(bracket)) is not None:
                return found
            withdrawn += 1
            if withdrawn < _SECOND_TIMINGS:
                self._hunt(bracket, trials + withdrawn)
        if self.refused is not None and all(a.left is None for a in self.attempts):
            raise self.refused
        raise refusal(self.budget, self.gauge, self.attempts, self.cost)

    def _hunt(self, bracket: Bracket, trials: int) -> None:
        while not self._spent(trials) and (share := bracket.next()) is not None:
            share = _key(share)
            old = self.done.get(share)
            attempt, trial, finding = (old, None, None) if old else self._try(share)
            self.attempts.append(attempt)
            if attempt.left is None:
                bracket.unreachable(share)
            else:
                bracket.add(share, attempt.left, self._direction(attempt))
            if attempt.accepted and self._better(attempt):
                self.best = attempt, trial, finding
            del trial, finding
            self.on_trial(attempt)

    def _spent(self, trials: int) -> bool:
        """Whether so many networks were built; shares that no network has are cheap to find out."""
        built = sum(attempt.left is not None for attempt in self.attempts)
        return built >= trials or len(self.attempts) >= 2 * trials

    def _settled(self, bracket: Bracket) -> Found | None:
        """The best, if it also meets its latency when it is timed once more."""
        assert self.best is not None
        attempt, trial, found = self.best
        if trial is None or found is None:  # resumed: build and measure it here
            trial = self._build(attempt.share)
            found = self.gauge.measure(trial)
        else:
            self.gauge.time(trial, found)
        if self._in_time(found):
            if self.finish is not None:  # what is handed over is what is timed
                self.finish(trial)
                self.gauge.time(trial, found)
            if self._in_time(found):
                return self._finish(attempt, trial, found)
        less = self._withdraw(attempt, found)
        if not self.smallest and less.left is not None:
            bracket.withdraw(less.share, less.left, self._direction(less))
        return None

    def _in_time(self, found: Finding) -> bool:
        return all(found.margins[repr(goal)] >= 0 for goal in self.gauge.latency)

    def _withdraw(self, attempt: Attempt, found: Finding) -> Attempt:
        """A second timing did not meet the budget: the next best takes its place."""
        why = "timed again, " + "; ".join(found.words)
        less = replace(attempt, margins=dict(found.margins), accepted=False, why=why)
        self.attempts = [less if other is attempt else other for other in self.attempts]
        self.on_trial(less)
        self.best = None
        for other in self.attempts:
            if other.accepted and self._better(other):
                self.best = other, None, None
        return less

    def _direction(self, attempt: Attempt) -> float:
        """The margin that says which way to go: the worst of quality's, or of all."""
        quality = [repr(goal) for goal in self.gauge.quality]
        names = quality if self.smallest else list(attempt.margins)
        return min(attempt.margins[name] for name in names)

    def _better(self, attempt: Attempt) -> bool:
        if self.best is None or self.best[0].left is None or attempt.left is None:
            return True
        smaller = attempt.left < self.best[0].left
        return smaller if self.smallest else not smaller

    def _build(self, share: float) -> Trial:
        trial = self.make(join(share_budget(self.cost, share), *self.ceilings))
        kind = leading(trial, self.cost)
        if kind != self.cost:
            self.cost = kind
            return self._build(share)
        return trial

    def _try(self, share: float) -> tuple[Attempt, Trial | None, Finding | None]:
        try:
            trial = self._build(share)
        except InfeasibleBudget as error:
            self.refused = error
            return Attempt(self.goal, share, why=error.message), None, None
        found = self.gauge.measure(trial)
        accepted = all(margin >= 0 for margin in found.margins.values())
        why = "meets everything" if accepted else "; ".join(found.words)
        return self._record(share, trial, found, accepted, why), trial, found

    def _record(
        self, share: float, trial: Trial, found: Finding, accepted: bool, why: str
    ) -> Attempt:
        quality, timing, amounts = found.quality, found.timing, trial.amounts
        return Attempt(
            goal=self.goal,
            share=share,
            left=trial.left(self.cost),
            params=amounts.params,
            macs=amounts.macs,
            bytes=amounts.bytes,
            quality=None if quality is None else quality.after,
            worse=None if quality is None else quality.worse(self.gauge.lower),
            error=None if quality is None else quality.error,
            samples=None if quality is None else quality.samples,
            latency_ms=None if timing is None else timing.after.median_ms,
            latency_before_ms=None if timing is None else timing.before.median_ms,
            latency_error_ms=None if timing is None else timing.after.error_ms,
            peak=found.peak,
            margins=dict(found.margins),
            accepted=accepted,
            why=why,
        )

    def _finish(self, attempt: Attempt, trial: Trial, found: Finding) -> Found:
        """The report on the winner."""
        trial.notes = (*trial.notes, *found.notes)
        quality = None
        if self.gauge.judge is not None and found.reading is not None:
            quality = self.gauge.judge.report(found.reading, trial.model)
        lines = sentences(
            self.budget, self.gauge, attempt, self.attempts, found, quality, self.cost
        )
        peak_before = self.gauge.peak or None
        return Found(
            trial, tuple(self.attempts), quality, found.timing, found.peak, peak_before, lines
        )


def _key(share: float) -> float:
    """A share as it is written in a record, so that a resumed search asks for the same ones."""
    return round(share, 6)
