"""What to do, as the user says it: one checked record, with the defaults filled in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from secateur.allocate.decide import Decider
from secateur.allocate.ladder import smallest
from secateur.core.batches import Call
from secateur.core.budget import Budget, Latency, Sparsity
from secateur.core.errors import RecipeError
from secateur.core.schedule import Steps
from secateur.core.scope import Scope
from secateur.graph.graph import Graph
from secateur.measure.calibration import calibration, example_call, take
from secateur.measure.latency_table import LatencyTable, gain_possible, latency_table
from secateur.measure.stats import Gather
from secateur.recover import (
    Recalibrate,
    Reconstruct,
    Recover,
    Supervision,
    check_needs,
    check_steps,
)
from secateur.score.criterion import Score
from secateur.search.cycles import check_schedule
from secateur.search.timing import rebatch
from secateur.search.workshop import Workshop
from secateur.units import Channel, Head, Unit, sites

UNIT: tuple[Unit, ...] = (Channel(), Head())
WITHOUT_DATA = ("magnitude", "global")
"""Criterion and allocator where there is no data."""
WITH_DATA = ("osscar", "knapsack")
"""Those that measured best on networks of all kinds, with the repairs below (docs/quality.md)."""
LARGE = 5_000_000
WITH_DATA_LARGE = ("group_l2", "global")
"""Those for networks of more than `LARGE` parameters, where OSSCAR takes minutes: behind a repair
they come close to it (docs/quality.md)."""
REPAIRS: tuple[Recover, ...] = (Reconstruct(), Recalibrate())


@dataclass(frozen=True)
class Common:
    """What structural prunes and those of single weights are told alike; see `prune_`.

    batches: the data that is used, kept. data: all of it, for repairs that train.
    """

    budget: Budget
    scope: Scope
    batches: list[Any] | None
    loss: Callable[[nn.Module, Any], Tensor] | None
    recover: tuple[Recover, ...]
    samples: int
    seed: int
    schedule: Steps | None
    data: Iterable[Any] | None

    def call(self, model: nn.Module, example: Any) -> Call:
        """The example as a call; by default the inputs of the first sample of data."""
        return example_call(model, example, self.batches)


def common(
    usual: Budget,
    *,
    budget: Budget | None = None,
    scope: Any = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    recover: Sequence[Recover] | Recover | None = None,
    samples: int = 512,
    seed: int = 0,
    schedule: Steps | None = None,
) -> dict[str, Any]:
    """The fields of `Common`, checked, with defaults filled in; usual: the budget if none is given.

    Raises:
        RecipeError, InputError: Something makes no sense; nothing was computed.
    """
    if budget is not None and not isinstance(budget, Budget):
        raise RecipeError(f"{budget!r} is not a budget", hint=f"for example {usual!r}")
    check_schedule(schedule)
    batches = None if data is None else take(data, samples)
    steps: Any = recover
    if recover is None:
        steps = () if batches is None else REPAIRS
    elif callable(getattr(recover, "run", None)) and not isinstance(recover, type):
        steps = (recover,)
    check_steps(steps)
    check_needs(steps, data)
    return {
        "budget": usual if budget is None else budget,
        "scope": Scope.of(scope),
        "batches": batches,
        "loss": loss,
        "recover": tuple(steps),
        "samples": samples,
        "seed": seed,
        "schedule": schedule,
        "data": batches if isinstance(data, Iterator) else data,  # iterators are read only once
    }


@dataclass(frozen=True)
class Arguments(Common):
    """The arguments of a structural prune; `of` fills in what was left open."""

    unit: Unit | Sequence[Unit]
    criterion: str | Score | None
    allocate: Any

    @classmethod
    def of(
        cls,
        *,
        unit: Unit | Sequence[Unit] = UNIT,
        criterion: str | Score | None = None,
        allocate: Any = None,
        **others: Any,
    ) -> Arguments:
        """The arguments with their defaults, which depend on whether there is data.

        others: see `common`.

        Raises:
            RecipeError, InputError: Something makes no sense; nothing was computed.
        """
        return cls(
            **common(Sparsity(0.5), **others), unit=unit, criterion=criterion, allocate=allocate
        )

    def choices(self, model: nn.Module) -> tuple[str | Score, Any]:
        """Criterion and allocator; those that go together where nothing was said."""
        usual = WITHOUT_DATA
        if self.batches is not None:
            size = sum(p.numel() for p in model.parameters())
            usual = WITH_DATA if size <= LARGE else WITH_DATA_LARGE
        if self.criterion is None:
            return usual[0], usual[1] if self.allocate is None else self.allocate
        return self.criterion, "global" if self.allocate is None else self.allocate

    def workshop(
        self, model: nn.Module, call: Call, supervision: Supervision | None = None
    ) -> Workshop:
        """The model, analysed and scored; supervision: the teacher, where it is not the model."""
        criterion, allocate = self.choices(model)
        gather = Gather(model, call, self.batches, self.loss, self.seed)

        def prepare(graph: Graph) -> Decider:
            return Decider.prepare(
                model, graph, unit=self.unit, criterion=criterion, scope=self.scope,
                gather=gather, seed=self.seed, table=self._table(model, call, graph),
            )  # fmt: skip

        data = None
        if self.recover and self.batches is not None:
            data = calibration(model, self.batches, samples=self.samples)
        taught = replace(supervision or Supervision(), data=self.data, loss=self.loss)
        return Workshop(
            model, call, prepare, allocate, data, self.recover, self.seed, supervision=taught
        )

    def _table(self, model: nn.Module, call: Call, graph: Graph) -> LatencyTable | None:
        """How long every layer takes at every size, where latency is what the budget is about."""
        goals = [part for part in self.budget.parts if isinstance(part, Latency)]
        if not goals:
            return None
        timed = rebatch(call, goals[0].batch)
        table = latency_table(model, timed, graph, threads=goals[0].threads)
        places = sites(graph, self.unit, self.scope, model)
        gain = gain_possible(table, *smallest(places, graph.ties))
        if not gain.possible:
            warnings.warn(str(gain), stacklevel=5)
        return table
