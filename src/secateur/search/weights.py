"""Makes trials with single weights removed: scores, allocates, masks or solves, repairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.allocate.problem import Nanoseconds
from secateur.allocate.weights import Allocate, allocated, chosen, in_rounds
from secateur.core.batches import Call
from secateur.core.budget import Budget, Params, Sparsity
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError
from secateur.core.plan import Plan, fingerprint
from secateur.core.tensors import light_copy, own_memory
from secateur.core.weight_site import WeightSite
from secateur.measure.calibration import Calibration
from secateur.measure.cost import Amounts
from secateur.measure.gradients import Loss
from secateur.measure.stats import Gather
from secateur.measure.weight_cost import weight_amounts
from secateur.recover import Job, Recover
from secateur.recover.supervision import Supervision
from secateur.recover.weights import solvers
from secateur.recover.weights.walk import Walk
from secateur.score.criterion import Facts
from secateur.score.run import Source
from secateur.score.weight import WeightScore
from secateur.score.weight_run import WeightScores, resolve_weight, weight_scores
from secateur.search.packing import (
    Packer,
    Priced,
    densities_for,
    levels,
    predicted,
    removed_energy,
)
from secateur.search.trial import Trial
from secateur.search.weight_scan import balanced, scan
from secateur.units.pattern import Pattern

SENSITIVITY = "sensitivity"
KERNELS = "kernels"
"""The allocation where zeros win time, by what kernels take; of a shop with a packer."""
_SCANNED = 2  # calls on which weights are removed one at a time


@dataclass
class WeightTrial(Trial):
    """A network with zeros; masks: of the weights in scope, by name, True where they stay."""

    masks: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class WeightShop:
    """One model with its weight sites, from which any number of sparse trials is made.

    criterion: a name of a criterion or of a solver, or a function. how: the allocation. calls: what
    is learned from, and what decides about repairs; None without data. batches, loss: the data as
    given, for gradients. steps: repairs, in order.
    in_place: change the model itself where its dense self is not needed any more. reference: the
    dense network to be like, where that is another one than the model. data: all that there is, for
    repairs that train. packer: sparse kernels, where the budget is about time: trials run on them,
    and what their layers take says where weights go.

    Memory: the model, the sparse copy, masks (a byte a weight), and what criterion and repairs take
    (see there). Scores are made tensor by tensor.
    """

    model: nn.Module
    call: Call
    sites: Sequence[WeightSite]
    pattern: Pattern
    criterion: str | WeightScore
    how: Allocate
    calls: Calibration | None = None
    batches: list[Any] | None = None
    loss: Loss | None = None
    steps: Sequence[Recover] = ()
    seed: int = 0
    in_place: bool = False
    reference: nn.Module | None = None
    data: Iterable[Any] | None = None
    packer: Packer | None = None

    def __post_init__(self) -> None:
        """Look the criterion up, and whether there is the data that it takes."""
        name = self.criterion
        self.solver = solvers.get(name) if isinstance(name, str) and name in solvers else None
        self.used = resolve_weight("magnitude" if self.solver is not None else name)
        if self.solver is not None and self.calls is None:
            raise RecipeError(
                f"the criterion {name!r} solves layers on their inputs, and there is no data",
                hint="give data=[…], or use a criterion such as 'magnitude'",
            )
        self.before = weight_amounts(self.model, self.call, {})
        self._scores: WeightScores | None = None
        self._errors: dict[str, npt.NDArray[np.float64]] | None = None
        for site in self.sites:
            if not bool(torch.isfinite(self.model.get_parameter(site.name)).all()):
                raise InputError(
                    f"{site.name} holds values that are not finite",
                    hint="the model has diverged: load a sound checkpoint",
                )
        self._table: Priced | None = None
        if self.packer is not None and self.how == KERNELS:
            self._table = self.packer.prices(self.sites, self.pattern, levels(self.pattern))
            self.before = replace(self.before, ns=round(1e6 * self._table.whole_ms))

    @property
    def units(self) -> int:
        """How many weights there are in scope."""
        return sum(site.n for site in self.sites)

    def sketch(self, budget: Budget) -> WeightTrial:
        """The same as `build` without the repair, which changes neither zeros nor times."""
        return self.build(budget, repaired=False)

    def build(self, budget: Budget, *, repaired: bool = True) -> WeightTrial:
        """A sparse and repaired copy that meets a budget which can be counted."""
        sparsity = needed(budget, self.before.params, self.units)
        check_pattern(self.pattern, sparsity)
        limits = [p.ceiling(self.before.ns) for p in budget.parts if isinstance(p, Nanoseconds)]
        plan = Plan(fingerprint(self.model), {}, example=self.call)
        steps = self.steps if repaired else ()
        solved = self.solver is not None or bool(steps)
        if self.in_place and (not solved or self.reference is not None):
            small = self.model
        else:
            small = light_copy(self.model)
            own_memory(small, self.model)
        shares, scores = self._allocated(sparsity, min(limits, default=None))
        masks = {} if self.solver is not None else self._masked(small, shares, scores)
        repairs = tuple[str, ...]()
        if solved:
            job = self._job(small, plan, masks)
            if self.solver is not None:
                Walk(
                    solver=self.solver, sites=self.sites, pattern=self.pattern, densities=shares
                ).run(job)
            for step in steps:
                step.run(job)
            masks, repairs = dict(job.masks or {}), tuple(job.notes)
        _enforce(small, masks)
        notes = tuple(dict.fromkeys(scores.facts.notes))
        after = self._amounts(small, masks, shares)
        runs = None if self.packer is None else self.packer.pack(small)
        return WeightTrial(small, plan, after, self.before, notes, repairs, None, runs, masks)

    def repair(self, trial: Trial) -> None:
        """Repair a sketch in place."""
        assert isinstance(trial, WeightTrial)
        if not self.steps:
            return
        job = self._job(trial.model, trial.plan, trial.masks)
        for step in self.steps:
            step.run(job)
        trial.masks = dict(job.masks or {})
        trial.repairs = (*trial.repairs, *job.notes)
        _enforce(trial.model, trial.masks)
        if self.packer is not None:
            trial.runs = self.packer.pack(trial.model)

    def _job(self, small: nn.Module, plan: Plan, masks: Mapping[str, Tensor]) -> Job:
        taught = Supervision(self.batches if self.data is None else self.data, self.loss)
        return Job(
            self.reference or self.model, small, plan, {}, self.calls, self.seed,
            supervision=taught, masks=dict(masks),
        )  # fmt: skip

    def _amounts(
        self, small: nn.Module, masks: Mapping[str, Tensor], shares: Mapping[str, float]
    ) -> Amounts:
        found = weight_amounts(small, self.call, masks)
        if self._table is None:
            return found
        return replace(found, ns=round(1e6 * predicted(self._table, shares)))

    def _gather(self, model: nn.Module) -> Gather:
        return Gather(model, self.call, self.batches, self.loss, self.seed)

    def _allocated(
        self, sparsity: float, most_ns: float | None = None
    ) -> tuple[dict[str, float], WeightScores]:
        facts = Facts.of(self.model, seed=self.seed)
        if self.used.rounds > 1:
            scores = self._in_rounds(sparsity, facts)
        else:
            if self._scores is None:
                gather = self._gather(self.model)
                self._scores = weight_scores(self.used, self.sites, facts, gather)
            scores = self._scores
        if self._table is not None and most_ns is not None:
            return self._in_time(sparsity, most_ns / 1e6, scores), scores
        if self.how == SENSITIVITY:
            return self._balanced(sparsity, scores), scores
        shares = allocated(
            self.how, self.sites, self.pattern, sparsity, scores, facts, self._gather(self.model)
        )
        return shares, scores

    def _balanced(self, sparsity: float, scores: WeightScores) -> dict[str, float]:
        """Densities by what each weight's removal does to the outputs."""
        if self.calls is None:
            raise RecipeError("allocate='sensitivity' needs data", hint="give data=[batch, …]")
        if self.pattern.keep is not None:
            raise RecipeError(
                "allocate='sensitivity': an n:m pattern keeps the same part of every weight",
                hint="leave allocate out, or use unit=Weight()",
            )
        errors = self._removals(scores)
        return balanced(errors, {site.name: site.n for site in self.sites}, sparsity)

    def _removals(self, scores: WeightScores) -> dict[str, npt.NDArray[np.float64]]:
        """What removing each weight does: to the outputs, or without data to its own square."""
        if self._errors is None and self.calls is not None:
            calls = self.calls.fit[:_SCANNED]
            self._errors = scan(self.model, self.sites, self.pattern, scores, calls)
        elif self._errors is None:
            weights = dict(self.model.named_parameters())
            self._errors = removed_energy(self.sites, self.pattern, weights)
        return self._errors

    def _in_time(self, sparsity: float, most_ms: float, scores: WeightScores) -> dict[str, float]:
        """Densities at which a run is predicted to be fast enough, and sparse enough if asked."""
        assert self._table is not None
        errors, table = self._removals(scores), self._table
        fixed, wanted = self.pattern.keep is not None, (1 - sparsity) * self.units
        sizes = {site.name: site.n for site in self.sites}
        while True:
            shares = densities_for(table, errors, most_ms, fixed)
            if sum(sizes[name] * share for name, share in shares.items()) <= wanted + 0.5:
                return shares
            most_ms = 0.95 * min(most_ms, predicted(table, shares))

    def _in_rounds(self, sparsity: float, facts: Facts) -> WeightScores:
        twin = light_copy(self.model)
        own_memory(twin, self.model)

        def look(masks: Mapping[str, Tensor]) -> tuple[Facts, Source]:
            _enforce(twin, masks)
            return Facts.of(twin, seed=self.seed), self._gather(twin)

        ranks = in_rounds(self.used, self.sites, self.pattern, sparsity, look)
        held = {site.name: site.tensor(ranks[site.name]) for site in self.sites}
        return WeightScores(self.used, self.sites, facts, held)

    def _masked(
        self, small: nn.Module, shares: Mapping[str, float], scores: WeightScores
    ) -> dict[str, Tensor]:
        found = list(chosen(self.used, self.sites, self.pattern, shares, scores))  # or it fails
        masks = {}
        for site, keep, update in found:
            parameter = small.get_parameter(site.name)
            mask = site.tensor(keep).to(parameter.device)
            with torch.no_grad():
                if update is not None:
                    parameter.copy_(site.tensor(update).to(parameter.dtype))
                parameter.mul_(mask)
            masks[site.name] = mask
        return masks


def needed(budget: Budget, params: int, weights: int) -> float:
    """The part of the weights in scope that has to go for every part of a budget.

    params: of the whole model. weights: in scope.

    Example:
        >>> needed(Sparsity(0.5) & Params(300), 1000, 900)
        0.7777777777777778

    Raises:
        InfeasibleBudget: More parameters than there are in scope would have to go.
        RecipeError: A part counts something else.
    """
    found = 0.0
    for part in budget.parts:
        if isinstance(part, Sparsity):
            found = max(found, part.fraction)
        elif isinstance(part, Params):
            surplus = params - part.ceiling(params)
            if surplus >= weights:
                raise InfeasibleBudget(
                    f"{part!r}: the {params - weights:,} parameters out of scope are too many",
                    hint="widen the scope; biases, norms and embeddings are never weights",
                )
            found = max(found, surplus / weights)
        elif not isinstance(part, Nanoseconds):
            raise RecipeError(
                f"{part!r} does not count single weights: zeros leave it as it is",
                hint="use Sparsity(0.9) or Params('10%'), or unit=Channel()",
            )
    return found


def check_pattern(pattern: Pattern, sparsity: float) -> None:
    """Raise `InfeasibleBudget` where a fixed pattern does not remove that much."""
    if pattern.keep is None:
        return
    assert isinstance(pattern.group, int)
    most = 1 - pattern.keep / pattern.group
    if sparsity > most + 1e-9:
        raise InfeasibleBudget(
            f"a {pattern.keep}:{pattern.group} pattern removes {most:.0%}, not {sparsity:.0%}",
            hint="leave the budget out, or use another pattern",
        )


def _enforce(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """What a mask removes is zero, whatever a repair did."""
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            parameter.mul_(mask.to(parameter.device))


__all__ = ["WeightShop", "WeightTrial", "check_pattern", "needed"]
