"""From a graph and a recipe to a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from secateur.allocate.allocation import allocate
from secateur.allocate.database import Database
from secateur.allocate.evolve import Evolution, Fitness, evolve
from secateur.allocate.problem import Allocation
from secateur.core.budget import Budget
from secateur.core.errors import RecipeError
from secateur.core.plan import Choice, Plan, Reason, fingerprint
from secateur.core.registry import did_you_mean
from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.graph.graph import Graph
from secateur.measure.cost import Cost, Timetable
from secateur.measure.stats import Gather
from secateur.score import Facts, Scores, resolve, scores
from secateur.score.criterion import Score
from secateur.units import Unit, sites


@dataclass(frozen=True)
class Decider:
    """Scored sites of a model, from which plans for any number of budgets are made.

    places: the sites. scored: their scores. notes: sentences about the scores.
    """

    model: nn.Module
    graph: Graph
    places: Sequence[Site]
    scored: Scores
    cost: Cost
    notes: tuple[str, ...] = ()

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        graph: Graph,
        *,
        unit: Unit | Sequence[Unit],
        criterion: str | Score,
        scope: Scope | None = None,
        gather: Gather | None = None,
        seed: int = 0,
        table: Timetable | None = None,
    ) -> Decider:
        """Find the sites and score them.

        table: predicts latency, for budgets of nanoseconds.

        Raises:
            RecipeError: There is nothing to remove with this unit and scope.
        """
        places = sites(graph, unit, scope, model)
        if not places:
            raise _nothing(graph)
        cost = Cost(graph, model, table)
        facts = Facts.of(model, seed=seed)
        if "costs" in resolve(criterion).needs:
            facts = replace(facts, costs={site.name: cost.index(site) for site in places})
        scored = scores(criterion, places, facts, gather)
        return cls(model, graph, places, scored, cost, tuple(facts.notes))

    def plan(
        self, budget: Budget, how: str, database: Database | None = None
    ) -> tuple[Plan, tuple[str, ...]]:
        """Allocate under a budget; returns the plan and notes for the report.

        Raises:
            InfeasibleBudget: The budget cannot be reached.
        """
        chosen = allocate(
            self.places, self.graph.ties, self.scored, self.cost, budget, how, database=database
        )
        return self.freeze(chosen), (*self.notes, *chosen.notes)

    def freeze(self, chosen: Allocation) -> Plan:
        """An allocation as a plan."""
        return build_plan(self.model, self.graph, self.places, chosen)

    def evolve(self, budget: Budget, fitness: Fitness, **options: Any) -> Evolution:
        """Improve an allocation by trying; see `allocate.evolve`."""
        ties = self.graph.ties
        return evolve(self.places, ties, self.scored, self.cost, budget, fitness, **options)

    def keeping(self, counts: Mapping[str, int]) -> Plan:
        """The plan in which the sites named keep that many of their best indices, others all.

        Raises:
            RecipeError: There is no such site, or a site cannot keep that many.
        """
        known = {site.name: site for site in self.places if site.module is None}
        kept = {}
        for name, count in counts.items():
            if name not in known:
                raise RecipeError(f"there is no site {name!r}", hint=did_you_mean(name, known))
            if not 1 <= count <= known[name].n:
                raise RecipeError(f"{name} cannot keep {count} of {known[name].n} indices")
            order = self.scored[name].argsort(descending=True, stable=True)[:count]
            kept[name] = order.sort().values.numpy()
        before, after = self.cost.total({}), self.cost.total(counts)
        chosen = Allocation(kept, (), before, after)
        return self.freeze(chosen)


def _nothing(graph: Graph) -> RecipeError:
    """Nothing can go: say what stands in the way."""
    reasons = Counter(str(axis.frozen) for axis in graph.axes.values() if axis.frozen is not None)
    shown = "".join(f"\n  {n} x {text}" for text, n in reasons.most_common(8))
    return RecipeError(
        "there is nothing to prune with this unit and scope; what stays, and why:"
        + (shown or " nothing is free"),
        hint="widen the scope or add a unit; rewrite=True follows literal sizes",
    )


def build_plan(model: nn.Module, graph: Graph, places: Sequence[Site], chosen: Allocation) -> Plan:
    """Freeze an allocation into a plan that needs neither the model nor the graph."""
    units = {site.name: site for site in places}
    choices = {
        name: Choice(units[name].n, np.asarray(kept), units[name].unit, units[name].what)
        for name, kept in chosen.kept.items()
        if len(kept) < units[name].n
    }
    blocks = {block.module: block for block in graph.blocks}
    before, after = chosen.before, chosen.after
    return Plan(
        fingerprint=fingerprint(model),
        sites=choices,
        layouts={
            name: layouts
            for name, layouts in graph.layouts.items()
            if any(layout.names & choices.keys() for layout in layouts)
        },
        attributes=tuple(a for a in graph.attributes if a.layout.names & choices.keys()),
        removed=chosen.removed,
        tuples=tuple(name for name in chosen.removed if blocks[name].as_tuple),
        predicted={
            key: (getattr(before, key), getattr(after, key)) for key in ("params", "macs", "bytes")
        },
        frozen=frozen_reasons(graph),
    )


def frozen_reasons(graph: Graph) -> tuple[Reason, ...]:
    """Every distinct reason for which something of the model stays."""
    found = [axis.frozen for axis in graph.axes.values() if axis.frozen is not None]
    return tuple(dict.fromkeys([*found, *graph.unknown.values()]))
