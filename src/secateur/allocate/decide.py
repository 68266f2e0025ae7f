"""From a graph and a recipe to a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from secateur.allocate.allocation import allocate
from secateur.allocate.problem import Allocation
from secateur.core.budget import Budget
from secateur.core.errors import RecipeError
from secateur.core.plan import Choice, Plan, Reason, fingerprint
from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.graph.graph import Graph
from secateur.measure.cost import Cost
from secateur.measure.stats import Gather
from secateur.score import Facts, resolve, scores
from secateur.score.criterion import Score
from secateur.units import Unit, sites


def decide(
    model: nn.Module,
    graph: Graph,
    *,
    unit: Unit | Sequence[Unit],
    criterion: str | Score,
    budget: Budget,
    how: str,
    scope: Scope | None = None,
    gather: Gather | None = None,
    seed: int = 0,
) -> tuple[Plan, tuple[str, ...]]:
    """Find sites, score them, allocate under the budget; returns the plan and notes for the report.

    Raises:
        RecipeError: There is nothing to remove with this unit and scope.
        InfeasibleBudget: The budget cannot be reached.
    """
    places = sites(graph, unit, scope, model)
    if not places:
        raise _nothing(graph)
    cost = Cost(graph, model)
    facts = Facts.of(model, seed=seed)
    if "costs" in resolve(criterion).needs:
        facts = replace(facts, costs={site.name: cost.index(site) for site in places})
    scored = scores(criterion, places, facts, gather)
    chosen = allocate(places, graph.ties, scored, cost, budget, how)
    return build_plan(model, graph, places, chosen), (*facts.notes, *chosen.notes)


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
