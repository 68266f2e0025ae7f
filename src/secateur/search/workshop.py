"""Makes trials: plans for a budget, cuts a verified copy of the model, repairs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateur.allocate.database import Database
from secateur.allocate.decide import Decider
from secateur.allocate.problem import Allocation
from secateur.apply.surgery import CutFailed, culprits, cut_verified
from secateur.core.batches import Call
from secateur.core.budget import Budget
from secateur.core.errors import RecipeError
from secateur.core.plan import Plan, Reason
from secateur.core.scan import Sensitivity
from secateur.core.tensors import light_copy, own_memory
from secateur.graph.analyze import analyze
from secateur.graph.graph import Graph
from secateur.measure.calibration import Calibration
from secateur.measure.cost import Amounts
from secateur.recover import Recover, Supervision, repair
from secateur.recover.distance import distance, outputs
from secateur.search.sensitivity import sensitivity
from secateur.search.trial import Trial

SEARCH_CALLS = 40
"""Networks that `allocate="search"` cuts and repairs at most."""
ATTEMPTS = 4
"""Times that a cut is planned anew without what has failed."""


@dataclass
class Workshop:
    """One model with its structure and its scores, from which any number of trials is made.

    prepare: scores the sites of a graph. steps: repairs, in order, on `calibration` where there is
    any. how: the allocator; "sensitivity" and "search" look at the model on the calibration data
    first. supervision: what repairs that train need. frozen: what failed its cut in spite of the
    analysis, and stays.

    Memory: a trial takes the memory of the cut copy, and what its repair takes.
    """

    model: nn.Module
    call: Call
    prepare: Callable[[Graph], Decider]
    how: str
    calibration: Calibration | None = None
    steps: Sequence[Recover] = ()
    seed: int = 0
    database: Database | None = None
    supervision: Supervision = field(default_factory=Supervision)
    frozen: dict[str, Reason] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Analyse and score."""
        self._start()

    def _start(self) -> None:
        self.graph = analyze(self.model, self.call, also_frozen=self.frozen)
        self.decider = self.prepare(self.graph)

    @property
    def before(self) -> Amounts:
        """What the model costs."""
        return self.decider.cost.total({})

    @property
    def units(self) -> int:
        """How many indices there are of which some could go."""
        return sum(site.n for site in self.decider.places)

    def build(self, budget: Budget) -> Trial:
        """A cut, verified and repaired copy that meets a budget which can be counted.

        Raises:
            InfeasibleBudget: The budget cannot be reached.
            VerificationError: No part could be cut correctly.
        """
        return self._make(lambda: self._plan(budget))

    def sketch(self, budget: Budget) -> Trial:
        """The same without the repair, which changes neither sizes nor times.

        Raises:
            InfeasibleBudget, VerificationError: As `build` does.
        """
        return self._copy(lambda: self._plan(budget))

    def _plan(self, budget: Budget) -> tuple[Plan, tuple[str, ...]]:
        if self.how == "search":
            return self._evolved(budget)
        if self.how == "sensitivity" and self.database is None:
            self.database = Database(self.scan(distance="kl").as_database())
        return self.decider.plan(budget, self.how, self.database)

    def scan(self, **options: Any) -> Sensitivity:
        """What every place can lose; see `search.sensitivity` for the options."""
        calls = self.calibration.held if self.calibration is not None else ()
        return sensitivity(
            self.keep, self.model, self.decider.places, self.graph.ties, calls=calls,
            seed=self.seed, **options,
        )  # fmt: skip

    def _evolved(self, budget: Budget) -> tuple[Plan, tuple[str, ...]]:
        """The allocation that evolution finds, judged by the outputs of repaired trials."""
        if self.calibration is None:
            raise RecipeError("allocate='search' needs data", hint="give data=[batch, …]")
        held = self.calibration.held
        wanted = outputs(self.model, held)

        def fitness(chosen: Allocation) -> float:
            plan = self.decider.freeze(chosen)
            trial = self._make(lambda: (plan, ()))
            return distance(wanted, outputs(trial.model, held))

        found = self.decider.evolve(budget, fitness, calls=SEARCH_CALLS, seed=self.seed)
        line = f"evolution: {found.calls} networks tried, distance {found.fitness:.3g}"
        return self.decider.freeze(found.best), (*self.decider.notes, line)

    def keep(self, counts: Mapping[str, int]) -> Trial:
        """A cut, verified and repaired copy in which the sites named keep that many indices."""
        return self._make(lambda: (self.decider.keeping(counts), ()))

    def cut_in_place(
        self, budget: Budget, *, optimizer: Optimizer | None = None, rollback: bool = True
    ) -> Trial:
        """Cut the model itself, verified and not repaired; it takes no copy."""
        return self._cut(
            lambda: self.decider.plan(budget, self.how, self.database),
            lambda: self.model,
            optimizer,
            rollback,
        )

    def _make(self, decide: Callable[[], tuple[Plan, tuple[str, ...]]]) -> Trial:
        trial = self._copy(decide)
        self.repair(trial)
        return trial

    def _copy(self, decide: Callable[[], tuple[Plan, tuple[str, ...]]]) -> Trial:
        trial = self._cut(decide, lambda: light_copy(self.model))
        own_memory(trial.model, self.model)
        return trial

    def repair(self, trial: Trial) -> None:
        """Repair a sketch in place."""
        if self.steps:
            trial.repairs = repair(
                self.model,
                trial.model,
                replace(trial.plan, example=self.call),
                self.graph.roles,
                self.calibration,
                self.steps,
                seed=self.seed,
                supervision=self.supervision,
            )

    def _cut(
        self,
        decide: Callable[[], tuple[Plan, tuple[str, ...]]],
        subject: Callable[[], nn.Module],
        optimizer: Optimizer | None = None,
        rollback: bool = True,
    ) -> Trial:
        """Cut and verify; what fails is frozen, and planned anew."""
        left = ATTEMPTS
        while True:
            plan, notes = decide()
            model = subject()
            left -= 1
            try:
                _, verification = cut_verified(
                    model, self.call, self.graph, plan, optimizer=optimizer, keep=rollback
                )
            except CutFailed:
                failed = culprits(model, self.call, self.graph, plan) if rollback and left else {}
                if not self._freeze(failed):
                    raise
                continue
            cost = self.decider.cost
            before, after = cost.total({}), cost.total(plan.counts, plan.removed)
            return Trial(model, plan, after, before, notes, verification=verification)

    def _freeze(self, found: Mapping[str, Reason]) -> bool:
        """Let what failed its cut stay, and score anew; False if nothing new was found."""
        if not found or found.keys() <= self.frozen.keys():
            return False
        self.frozen |= found
        self._start()
        return True
