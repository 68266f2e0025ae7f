"""The knapsack against exhaustive search, and against the simple allocators."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from allocation_problems import Problem, chain, problems
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.allocate import Database, allocate
from secateur.allocate import problem as rooms
from secateur.allocate.knapsack import solve
from secateur.core.budget import Budget, Bytes, MACs, Params, Sparsity
from secateur.core.errors import InfeasibleBudget
from secateur.core.layout import Leaf
from secateur.core.site import Site, Slice
from secateur.graph.graph import Graph, Term
from secateur.measure.cost import Cost
from secateur.score import Scores

quick = settings(deadline=None, max_examples=60)


def options(number: st.SearchStrategy[float]) -> st.SearchStrategy[list[list[tuple[float, float]]]]:
    """For every list its (error, cost) pairs, the cheapest of cost 0."""
    pairs = st.lists(st.tuples(st.integers(0, 9).map(float), number), min_size=0, max_size=4)
    free = st.integers(0, 9).map(lambda e: (float(e), 0.0))
    return st.lists(st.tuples(free, pairs).map(lambda x: [x[0], *x[1]]), min_size=1, max_size=4)


def exhaustive(lists: list[list[tuple[float, float]]], room: float) -> float:
    fits = [pick for pick in product(*lists) if sum(cost for _, cost in pick) <= room]
    return min(sum(error for error, _ in pick) for pick in fits)


@settings(deadline=None)
@given(options(st.integers(0, 30).map(float)), st.integers(0, 60))
def test_integers_are_solved_exactly(lists: list[list[tuple[float, float]]], room: int) -> None:
    errors = [np.array([e for e, _ in pairs]) for pairs in lists]
    costs = [np.array([c for _, c in pairs]) for pairs in lists]
    picks = solve(errors, costs, float(room))
    assert picks is not None
    assert sum(c[p] for c, p in zip(costs, picks, strict=True)) <= room
    assert sum(e[p] for e, p in zip(errors, picks, strict=True)) == exhaustive(lists, room)


@settings(deadline=None)
@given(options(st.floats(0, 30)), st.floats(0.5, 60))
def test_other_costs_hold_and_lose_no_more_than_the_rounding(
    lists: list[list[tuple[float, float]]], room: float
) -> None:
    errors = [np.array([e for e, _ in pairs]) for pairs in lists]
    costs = [np.array([c for _, c in pairs]) for pairs in lists]
    picks = solve(errors, costs, room, bins=100)
    assert picks is not None
    assert sum(c[p] for c, p in zip(costs, picks, strict=True)) <= room * (1 + 1e-9)
    error = sum(e[p] for e, p in zip(errors, picks, strict=True))
    assert exhaustive(lists, room) <= error
    assert error <= exhaustive(lists, room * (1 - len(lists) / 100))


def test_no_room_is_said() -> None:
    one = [np.array([1.0, 0.0])]
    assert solve(one, [np.array([0.0, 1.0])], -1.0) is None
    assert solve(one, [np.array([2.0, 3.0])], 1.0) is None
    assert solve(one, [np.array([0.0, 1.0])], 0.0) == [0]


def apart(widths: list[int], factors: list[int], seed: int) -> tuple[Problem, Database]:
    """Sites whose costs are separable, and random errors that fall."""
    rng = np.random.default_rng(seed)
    leaves = [Leaf(f"w{i}", n) for i, n in enumerate(widths)]
    net = nn.ParameterDict({leaf.name: torch.zeros(leaf.n) for leaf in leaves})
    layouts = {leaf.name: (leaf,) for leaf in leaves}
    terms = tuple(Term(x.name, "mm", f, (x,)) for x, f in zip(leaves, factors, strict=True))
    sites = tuple(
        Site(leaf.name, "channel", leaf.n, (Slice(leaf.name, 0, leaf, "out"),)) for leaf in leaves
    )
    scores = {leaf.name: torch.from_numpy(rng.random(leaf.n)) for leaf in leaves}
    cost = Cost(Graph(layouts, {}, {}, (), (), terms, ()), net)
    entries = {
        leaf.name: {k: float(rng.random() * (leaf.n - k) * 2.0 ** rng.integers(-3, 3)) for k in ks}
        for leaf in leaves
        for ks in [rng.permutation(leaf.n)[: max(1, leaf.n // 2)].tolist()]
    }
    return Problem(sites, (), scores, cost), Database(entries)


def brute(problem: Problem, database: Database | None, budget: Budget) -> float:
    """The least error of all allocations that fit."""
    room = rooms.Problem(
        problem.sites, problem.ties, problem.scores, problem.cost, budget, "total", database
    )
    downs = (np.array(d) for d in product(*(range(s + 1) for s in room.steps)))
    return min(room.error(down) for down in downs if room.fits(down))


def run(problem: Problem, budget: Budget, how: Any, database: Database | None = None) -> Any:
    arguments = (problem.sites, problem.ties, problem.scores, problem.cost, budget, how)
    return allocate(*arguments, database=database)


@quick
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(30, 100),
    st.sampled_from([MACs, Params, Bytes]),
    st.integers(0, 10**6),
)
def test_separable_costs_give_the_best_of_all(
    shape: list[tuple[int, int]], share: int, kind: type[Any], seed: int
) -> None:
    problem, database = apart([n for n, _ in shape], [f for _, f in shape], seed)
    budget = kind(f"{share}%")
    try:
        found = run(problem, budget, "knapsack", database)
    except InfeasibleBudget:
        assume(False)
    assert found.error == pytest.approx(brute(problem, database, budget), abs=1e-9)


@quick
@given(problems(), st.integers(20, 95), st.sampled_from([MACs, Params, Bytes]))
def test_it_is_never_worse_than_the_simple_allocators(
    problem: Problem, share: int, kind: type[Any]
) -> None:
    budget = kind(f"{share}%") & Params("90%")
    try:
        best = run(problem, budget, "knapsack")
    except InfeasibleBudget:
        assume(False)
    for how in ("global", "uniform", "sensitivity"):
        assert best.error <= run(problem, budget, how).error + 1e-9


@pytest.mark.parametrize("budget", [MACs("50%"), MACs("30%"), Params("40%") & MACs("45%")], ids=str)
def test_products_of_neighbours_come_near_the_best_of_all(budget: Budget) -> None:
    ratios, others = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        widths = [4, 6, 4, 5]
        scores = [rng.random(n).tolist() for n in widths]
        problem = chain(widths, [], [1] * 4, [1] * 4, scores, [])
        database = Database(
            {
                f"fc{i}": {k: float(2 ** rng.uniform(-3, 3) * (1 - k / n)) for k in (1, n // 2)}
                for i, n in enumerate(widths)
            }
        )
        least = brute(problem, database, budget)
        ratios.append(run(problem, budget, "knapsack", database).error / least)
        others.append(run(problem, budget, "global", database).error / least)
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) < 1.05
    assert np.mean(others) > 1.2  # so the bound above says something


def test_a_sparsity_of_all_units_is_a_cost_like_others() -> None:
    problem = chain([4, 4], [], [1, 1], [1, 1], [[1.0] * 4, [1.0] * 4], [])
    database = Database({"fc0": {1: 0.3}, "fc1": {1: 3.0}})
    found = run(problem, Sparsity(0.25), "knapsack", database)
    assert [len(found.kept[name]) for name in ("fc0", "fc1")] == [2, 4]


def test_without_a_database_errors_are_what_the_scores_lose() -> None:
    scores = [[8.0, 4.0, 2.0, 2.0], [3.0, 3.0, 1.0, 1.0]]
    problem = chain([4, 4], [], [1, 1], [1, 1], scores, [])
    found = run(problem, Sparsity(0.375), "knapsack")
    assert found.error == pytest.approx(min(2 / 16 + 2 / 8, 4 / 16 + 1 / 8))
    given = Scores(problem.scores)
    given.comparable = True
    found = allocate(problem.sites, (), given, problem.cost, Sparsity(0.375), "knapsack")
    assert found.error == 1.0 + 1.0 + 2.0
    given.cumulative = True  # type: ignore[attr-defined]
    found = allocate(problem.sites, (), given, problem.cost, Sparsity(0.375), "knapsack")
    assert found.error == 1.0 + 2.0  # three of eight must go: two of fc0 or of fc1, and one more


def test_blocks_and_sites_are_chosen_together() -> None:
    problem = chain([4], [], [1], [1], [[1.0] * 4], [6.0, 12.0])
    cheap = Database({"fc0": {1: 3.0}, "block0": {0: 0.1}, "block1": {0: 0.1}})
    dear = Database({"fc0": {1: 0.1}, "block0": {0: 9.0}, "block1": {0: 9.0}})
    first, second = (run(problem, Params("60%"), "knapsack", d) for d in (cheap, dear))
    assert len(first.kept["fc0"]) > len(second.kept["fc0"])
    assert first.removed and not second.removed
    assert first.after.params <= 0.6 * first.before.params
