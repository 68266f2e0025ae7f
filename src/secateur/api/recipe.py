"""What to do, as the user says it: one checked record, with the defaults filled in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur.allocate.decide import Decider
from secateur.allocate.ladder import smallest
from secateur.core.batches import Call, as_call, check_model
from secateur.core.budget import Budget, Latency, Sparsity
from secateur.core.errors import InputError, RecipeError
from secateur.core.scope import Scope
from secateur.graph.graph import Graph
from secateur.measure.calibration import Calibration, batch_call, calibration, first_sample, take
from secateur.measure.latency_table import LatencyTable, gain_possible, latency_table
from secateur.measure.stats import Gather
from secateur.recover import Recalibrate, Reconstruct, Recover, check_steps
from secateur.score.criterion import Score
from secateur.search.timing import rebatch
from secateur.search.workshop import Workshop
from secateur.units import Channel, Head, Unit, sites

UNIT: tuple[Unit, ...] = (Channel(), Head())
WITHOUT_DATA = ("magnitude", "global")
"""Criterion and allocator where there is no data."""
WITH_DATA = ("osscar", "knapsack")
"""Those that measured best on networks of all kinds, with the repairs below (docs/quality.md)."""
REPAIRS: tuple[Recover, ...] = (Reconstruct(), Recalibrate())


@dataclass(frozen=True)
class Recipe:
    """The arguments of a prune that say what to do; `of` fills in what was left open.

    batches: the data that is used, kept. See `prune_` for the others.
    """

    unit: Unit | Sequence[Unit]
    criterion: str | Score
    budget: Budget
    allocate: Any
    scope: Scope
    batches: list[Any] | None
    loss: Callable[[nn.Module, Any], Tensor] | None
    recover: tuple[Recover, ...]
    samples: int
    seed: int

    @classmethod
    def of(
        cls,
        *,
        unit: Unit | Sequence[Unit] = UNIT,
        criterion: str | Score | None = None,
        budget: Budget | None = None,
        allocate: Any = None,
        scope: Any = None,
        data: Iterable[Any] | None = None,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        recover: Sequence[Recover] | None = None,
        samples: int = 512,
        seed: int = 0,
    ) -> Recipe:
        """The recipe with its defaults, which depend on whether there is data.

        Raises:
            RecipeError, InputError: Something makes no sense; nothing was computed.
        """
        if budget is not None and not isinstance(budget, Budget):
            raise RecipeError(f"{budget!r} is not a budget", hint="for example MACs('50%')")
        batches = None if data is None else take(data, samples)
        default = WITHOUT_DATA if batches is None else WITH_DATA
        steps: Sequence[Recover] = (
            (() if batches is None else REPAIRS) if recover is None else recover
        )
        check_steps(steps)
        return cls(
            unit,
            default[0] if criterion is None else criterion,
            Sparsity(0.5) if budget is None else budget,
            _allocator(criterion, allocate, default),
            Scope.of(scope),
            batches,
            loss,
            tuple(steps),
            samples,
            seed,
        )

    def call(self, model: nn.Module, example: Any) -> Call:
        """The example as a call; by default the inputs of the first sample of data."""
        check_model(model)
        if example is not None:
            return as_call(model, example)
        if self.batches is None:
            raise InputError(
                "there is neither an example nor data", hint="give example=one batch of inputs"
            )
        return first_sample(batch_call(model, self.batches[0]))

    def workshop(self, model: nn.Module, call: Call) -> Workshop:
        """The model, analysed and scored."""
        gather = Gather(model, call, self.batches, self.loss, self.seed)

        def prepare(graph: Graph) -> Decider:
            return Decider.prepare(
                model, graph, unit=self.unit, criterion=self.criterion, scope=self.scope,
                gather=gather, seed=self.seed, table=self._table(model, call, graph),
            )  # fmt: skip

        data = self._calibration(model, call) if self.recover else None
        return Workshop(model, call, prepare, self.allocate, data, self.recover, self.seed)

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

    def _calibration(self, model: nn.Module, call: Call) -> Calibration:
        if self.batches is not None:
            return calibration(model, self.batches, samples=self.samples)
        raise InputError("there is no data to repair with", hint="give data=[batch, …]")


def _allocator(criterion: Any, allocate: Any, default: tuple[str, str]) -> Any:
    """The allocator: the best known one goes with the best known criterion only."""
    if allocate is not None:
        return allocate
    return default[1] if criterion is None else "global"
