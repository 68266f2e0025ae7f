"""Iterative pruning: cycles of rising intensity, each cut, repaired and scored anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from secateur.core.attempt import Attempt
from secateur.core.batches import Call
from secateur.core.budget import Budget, Limit, Sparsity, counted, join, measured
from secateur.core.ceiling import Ceiling
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.measured import Verification
from secateur.core.page import amount
from secateur.core.plan import Plan
from secateur.core.schedule import Steps
from secateur.measure.cost import Amounts
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.recover import Supervision
from secateur.search.gauge import Finding, Gauge
from secateur.search.loop import Found
from secateur.search.report import refusal, sentences
from secateur.search.trial import Trial, leading, share_budget

LEAST = 0.1
"""The share of the leading cost that the last cycle leaves where no budget says one."""
_WORDS = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}


class Shop(Protocol):
    """What makes trials of one model: a `Workshop`, or a `WeightShop`."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    @property
    def call(self) -> Call:
        """The example."""
        ...

    @property
    def before(self) -> Amounts:
        """What the model costs."""
        ...

    @property
    def units(self) -> int:
        """Of how many units some could go."""
        ...

    def build(self, budget: Budget) -> Trial:
        """A repaired trial that meets a budget which can be counted."""
        ...


Prepare = Callable[[nn.Module, Supervision], Shop]
"""Analyses and scores a network that earlier cycles left, whose teacher is the original."""


def check_schedule(schedule: Any) -> None:
    """Raise `RecipeError` unless this is a schedule of cycles, or None."""
    if schedule is not None and not isinstance(schedule, Steps):
        raise RecipeError(
            f"schedule={schedule!r}: a prune cuts and repairs in cycles",
            hint="give Steps(5), or Steps([0.5, 0.8, 1.0]); others are for sc.attach",
        )


def cycles(
    prepare: Prepare,
    first: Shop,
    budget: Budget,
    schedule: Steps,
    *,
    evaluate: Evaluate | None = None,
    judge: Judge | None = None,
    cost: str | None = None,
    seed: int = 0,
    resume: Iterable[Attempt] = (),
    on_cycle: Callable[[Attempt], None] | None = None,
) -> Found:
    """Prune in cycles; each starts from the repaired network of the one before.

    Budgets that are counted are approached geometrically: after the fraction f of the schedule a
    cost is `original^(1 - f) * budget^f`. With demands on quality the cycles stop when one is
    violated, and the last good network is the result; without a counted budget beside them they go
    down to a tenth of the leading cost. With ceilings that are measured (latency, memory) and no
    demand on quality they stop as soon as all hold.

    Args:
        prepare: Makes the trials of a later cycle.
        first: Makes those of the original.
        budget: As of `search`.
        schedule: The fractions.
        evaluate: For goals of quality.
        cost: What goes down to a tenth where nothing is counted; by default MACs, where there are
            some, else parameters.
        judge: Reads the quality after every cycle where the budget asks for none.
        seed: As of `search`.
        resume: Must be empty: a cycle starts from a network, not from a record.
        on_cycle: Called with the record of each cycle.

    Raises:
        InfeasibleBudget: No cycle meets everything, or a counted budget cannot be reached.
    """
    if tuple(resume):
        raise RecipeError(
            "the cycles of a schedule are not resumed from records",
            hint="give the trainings in recover= a checkpoint= folder",
        )
    return _Cycles(prepare, first, budget, schedule, evaluate, judge, cost, seed, on_cycle).run()


class _Cycles:
    """The cycles so far; two networks are in memory beside the original."""

    def __init__(
        self,
        prepare: Prepare,
        first: Shop,
        budget: Budget,
        schedule: Steps,
        evaluate: Evaluate | None,
        judge: Judge | None,
        cost: str | None,
        seed: int,
        on_cycle: Callable[[Attempt], None] | None,
    ) -> None:
        self.prepare, self.shop, self.budget = prepare, first, budget
        self.fractions = schedule.fractions()
        self.judge, self.on_cycle = judge, on_cycle or (lambda attempt: None)
        self.original = first.model
        self.start, self.units = first.before, first.units
        self.cost = cost or ("macs" if self.start.macs else "params")
        limits = [part.kind for part in counted(budget) if isinstance(part, Limit)]
        self.shown = limits[0] if limits else self.cost
        self.gauge: Gauge | None = None
        if measured(budget):
            self.gauge = Gauge(
                budget, first.model, evaluate=evaluate, example=first.call, seed=seed
            )
        self.plans: tuple[Plan, ...] = ()
        self.repairs: list[str] = []
        self.proofs: list[Verification] = []
        self.attempts: list[Attempt] = []
        self.lines: list[str] = []

    def run(self) -> Found:
        """Cycle after cycle, until the end of the schedule or of what is allowed."""
        best: tuple[Trial, Finding, Attempt] | None = None
        model = self.original
        for number, fraction in enumerate(self.fractions):
            if number:
                self._next(model)
            try:
                trial = self.shop.build(self._aim(fraction))
            except InfeasibleBudget:
                if best is None or counted(self.budget):
                    raise
                break
            model = trial.model
            finding = Finding() if self.gauge is None else self.gauge.measure(trial)
            self._collect(number, trial)
            attempt = self._record(number, fraction, trial, finding)
            if self._violated(finding):
                break
            best = (trial, finding, attempt)
            if self.gauge is not None and not self.gauge.quality and attempt.accepted:
                break
        return self._finish(best)

    def _next(self, model: nn.Module) -> None:
        """The repaired network is what the next cycle starts from."""
        earlier = self.plans
        self.shop = self.prepare(model, Supervision(teacher=self.original, earlier=earlier))

    def _aim(self, fraction: float) -> Budget:
        """What this cycle may leave."""
        parts = [self._aimed(part, fraction) for part in counted(self.budget)]
        if not any(isinstance(part, (Ceiling, Sparsity)) for part in parts):
            total = getattr(self.start, self.cost)
            part = share_budget(self.cost, 1.0)
            parts.append(type(part)(max(1, int(total * LEAST**fraction))))  # type: ignore[call-arg]
        return join(*parts)

    def _aimed(self, part: Budget, fraction: float) -> Budget:
        if isinstance(part, Limit):
            total = getattr(self.start, part.kind)
            limit = part.ceiling(total)
            between = total ** (1 - fraction) * limit**fraction
            return type(part)(limit if fraction == 1 else max(1, int(between)))
        assert isinstance(part, Sparsity)
        kept = max(part.kept(self.units), 1)
        if fraction < 1:
            kept = int(self.units ** (1 - fraction) * kept**fraction)
        return Sparsity(max(0.0, 1 - (kept + 0.5) / self.shop.units))

    def _allowed(self, fraction: float) -> float:
        """The part of the cost that is turned which this cycle may leave."""
        for part in counted(self.budget):
            if isinstance(part, Limit):
                total = getattr(self.start, part.kind)
                aimed = self._aimed(part, fraction)
                assert isinstance(aimed, Limit)
                return min(1.0, aimed.ceiling(total) / total)
        return LEAST**fraction

    def _violated(self, finding: Finding) -> bool:
        """Whether the quality is outside what is allowed: then no smaller network is looked for."""
        if self.gauge is None:
            return False
        return any(finding.margins[repr(goal)] < 0 for goal in self.gauge.quality)

    def _collect(self, number: int, trial: Trial) -> None:
        self.plans = (*self.plans, trial.plan)
        remember(trial.model, (*plans_of(self.shop.model), trial.plan))
        self.repairs += [f"cycle {number + 1}: {text}" for text in trial.repairs]
        if trial.verification is not None:
            self.proofs.append(trial.verification)

    def _record(self, number: int, fraction: float, trial: Trial, finding: Finding) -> Attempt:
        whole = Trial(trial.model, trial.plan, trial.amounts, self.start)
        left = whole.left(leading(whole, self.cost))
        quality = finding.quality
        if self.judge is not None:
            quality = self.judge.selection(self.judge.read(trial.model))
        accepted = all(margin >= 0 for margin in finding.margins.values())
        why = "; ".join(finding.words) or "meets everything"
        attempt = Attempt(
            goal=repr(self.budget),
            share=self._allowed(fraction),
            left=left,
            params=trial.amounts.params,
            macs=trial.amounts.macs,
            bytes=trial.amounts.bytes,
            quality=None if quality is None else quality.after,
            peak=finding.peak,
            margins=dict(finding.margins),
            accepted=accepted,
            why=why,
        )
        count = amount(getattr(trial.amounts, self.shown))
        said = f"{whole.left(self.shown):.1%} of the {_WORDS[self.shown]} left ({count})"
        said += "" if quality is None else f", quality {quality.after:.4g}"
        said += f"; {why}" if finding.words else ""
        self.lines.append(f"cycle {number + 1} of {len(self.fractions)}: {said}")
        self.attempts.append(attempt)
        self.on_cycle(attempt)
        return attempt

    def _finish(self, best: tuple[Trial, Finding, Attempt] | None) -> Found:
        """The last good network, with the first amounts before it and all plans behind it."""
        gauge = self.gauge
        if best is None or (gauge is not None and not best[2].accepted):
            assert gauge is not None
            raise refusal(self.budget, gauge, self.attempts, self.cost)
        trial, finding, attempt = best
        done = plans_of(trial.model)[len(plans_of(self.original)) :]
        trial.before = self.start
        trial.verification = _together(self.proofs[: len(done)])
        trial.notes = (*trial.notes, *finding.notes)
        trial.repairs = tuple(
            text for text in self.repairs if int(text.split(" ")[1].rstrip(":")) <= len(done)
        )
        quality = None
        lines = tuple(self.lines)
        if gauge is not None:
            if gauge.judge is not None and finding.reading is not None:
                quality = gauge.judge.report(finding.reading, trial.model)
            lines += sentences(
                self.budget, gauge, attempt, self.attempts, finding, quality, self.cost
            )
        return Found(
            trial, tuple(self.attempts), quality, finding.timing, finding.peak,
            None if gauge is None else gauge.peak or None, lines, done,
        )  # fmt: skip


def _together(proofs: list[Verification]) -> Verification | None:
    """The proofs of all cuts as one: the largest difference of any."""
    if not proofs:
        return None
    worst = max(proofs, key=lambda proof: proof.max_difference / proof.tolerance)
    return replace(
        worst,
        ok=all(proof.ok for proof in proofs),
        statistical=any(proof.statistical for proof in proofs),
    )
