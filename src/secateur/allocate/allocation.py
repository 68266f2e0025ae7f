"""Allocation: how many and which indices every site keeps so that a budget holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from secateur.allocate.allocator import Allocator, Order, resolve
from secateur.allocate.database import Database
from secateur.allocate.problem import Allocation, Problem
from secateur.core.budget import Budget
from secateur.core.errors import RecipeError
from secateur.core.layout import Index
from secateur.core.site import Site, Tie
from secateur.measure.cost import Cost


def allocate(
    sites: Sequence[Site],
    ties: Sequence[Tie],
    scores: Mapping[str, Tensor],
    cost: Cost,
    budget: Budget,
    how: str | Order | Allocator = "global",
    *,
    database: Database | None = None,
) -> Allocation:
    """Choose what stays under a budget.

    Steps down are taken in the allocator's order until the budget holds, found by bisection on how
    many; then what still fits is taken back, last step first. So the budget is met from below, and
    no site (or tie of sites) could keep one more level. "knapsack" chooses all levels together.

    A tie moves as one: its sites keep `ratio * level` best indices each. A tie of which a member is
    not among the sites stays whole. Blocks are ranked together, by score per cost.

    how: "global", "uniform", "isomorphic", "erk", "lamp", "owl", "sensitivity", "knapsack", or a
    function of ladders. With "uniform", `Sparsity` is a share of every site; otherwise of all units
    together. database: measured errors for "sensitivity" and "knapsack"; without one they use what
    the scores say is lost.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.core.budget import Params
        >>> from secateur.graph import analyze
        >>> from secateur.score import Facts, scores
        >>> from secateur.units import Channel, sites
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = analyze(net, torch.zeros(1, 3))
        >>> places = sites(graph, Channel(), None, net)
        >>> scored = scores("l1", places, Facts.of(net))
        >>> found = allocate(places, graph.ties, scored, Cost(graph, net), Params("50%"))
        >>> len(found.kept["0"]), found.before.params, found.after.params
        (3, 50, 20)

    Raises:
        InfeasibleBudget: even the smallest allowed sizes cost more; the message says how much.
        InputError: scores are missing, misshapen or not finite, or the database lacks a site.
        RecipeError: there is no site, or the budget is not one.
    """
    rule = resolve(how)
    problem = Problem(sites, ties, scores, cost, budget, rule.sparsity, database)
    return problem.allocation(choose(problem, rule))


def choose(problem: Problem, rule: Allocator) -> Index:
    """How many steps down every ladder goes under a rule; `[ladders]`."""
    if rule.choose is not None:
        return rule.choose(problem)
    keys = rule(problem.ladders)
    for ladder, given in zip(problem.ladders, keys, strict=True):
        if given.shape != (len(ladder.levels) - 1,) or np.isnan(given).any():
            raise RecipeError(f"the allocator {rule.name!r} must give one number a step")
    return problem.descend(problem.order(keys))
