"""Level switching: it finds better allocations at equal budget, and stops when told to."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from allocation_problems import Problem, chain, problems
from hypothesis import assume, given, settings

from secateur.allocate import Allocation, allocate, evolve
from secateur.allocate import problem as rooms
from secateur.core.budget import MACs, Params, Sparsity
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError
from secateur.core.site import Tie

WIDTHS = [6, 5, 6]
HALF = MACs("50%")


def wide() -> Problem:
    rng = np.random.default_rng(0)
    return chain(WIDTHS, [], [1] * 3, [1] * 3, [rng.random(n).tolist() for n in WIDTHS], [])


def want(allocation: Allocation) -> float:
    """Least when the layers keep 6, 2 and 4."""
    kept = [len(allocation.kept[f"fc{i}"]) for i in range(3)]
    return float(sum((k - w) ** 2 for k, w in zip(kept, (6, 2, 4), strict=True)))


def run(problem: Problem, fitness: Any, budget: Any = HALF, **more: Any) -> Any:
    arguments = (problem.sites, problem.ties, problem.scores, problem.cost, budget, fitness)
    return evolve(*arguments, **more)


def test_it_finds_the_best_of_all_allocations_that_are_full() -> None:
    problem, budget = wide(), MACs("50%")
    room = rooms.Problem(problem.sites, problem.ties, problem.scores, problem.cost, budget)
    downs = [np.array(d) for d in product(*(range(s + 1) for s in room.steps))]
    order = room.order([k.steps() for k in room.ladders])
    full = [d for d in downs if room.fits(d) and np.array_equal(room.fill(d, order), d)]
    start = allocate(problem.sites, (), problem.scores, problem.cost, budget, "uniform")
    found = run(problem, want, budget, start=start, patience=50)
    assert found.fitness == min(want(room.allocation(d)) for d in full)
    assert found.fitness == want(found.best) < want(start)


@settings(deadline=None, max_examples=30)
@given(problems())
def test_every_candidate_fits_and_is_judged_once(problem: Problem) -> None:
    budget = MACs("60%") & Params("70%")
    seen: list[Any] = []

    def fitness(allocation: Allocation) -> float:
        assert allocation.after.macs <= MACs("60%").ceiling(allocation.before.macs)
        assert allocation.after.params <= Params("70%").ceiling(allocation.before.params)
        for tie in problem.ties:
            levels = {
                len(allocation.kept[n]) / r for n, r in tie.ratios.items() if n in allocation.kept
            }
            assert len(levels) <= 1 and levels <= set(problem.levels(tie))
        key = {name: kept.tolist() for name, kept in allocation.kept.items()}, allocation.removed
        assert key not in seen
        seen.append(key)
        return float(len(seen) % 3)

    try:
        found = run(problem, fitness, budget, calls=15)
    except InfeasibleBudget:
        assume(False)
    assert found.calls == len(seen) <= 15


def test_the_same_seed_gives_the_same_search() -> None:
    def rough(allocation: Allocation) -> float:
        kept = [len(allocation.kept[f"fc{i}"]) for i in range(3)]
        return math.sin(kept[0] * 3.0) + math.cos(kept[1] * 7.0) + 0.1 * kept[2]

    first, again = (run(wide(), rough, calls=12, seed=5) for _ in range(2))
    assert first.history == again.history and first.calls == again.calls
    assert all(np.array_equal(k, again.best.kept[n]) for n, k in first.best.kept.items())


def test_history_says_when_it_got_better() -> None:
    found = run(wide(), want, patience=50)
    calls, values = zip(*found.history, strict=True)
    assert calls[0] == 1 and list(calls) == sorted(calls)
    assert list(values) == sorted(values, reverse=True) and values[-1] == found.fitness


def test_it_stops_as_asked() -> None:
    flat = run(wide(), lambda _: 0.0, patience=2, offspring=2)
    assert flat.stopped == "patience" and flat.calls == 1 + 2 * 2
    few = run(wide(), want, calls=4)
    assert few.stopped == "calls" and few.calls == 4
    now = run(wide(), want, seconds=1e-9)
    assert now.stopped == "time" and now.calls == 1
    tiny = chain([1, 1], [], [1, 1], [1, 1], [[1.0], [1.0]], [])
    assert run(tiny, lambda _: 0.0, MACs("100%")).stopped == "exhausted"


def test_nan_is_the_worst() -> None:
    calls = []

    def broken_at_first(allocation: Allocation) -> float:
        calls.append(1)
        return math.nan if len(calls) == 1 else 1.0

    found = run(wide(), broken_at_first, patience=1)
    assert found.history[0] == (1, math.inf) and found.fitness == 1.0


def test_a_start_is_where_it_starts() -> None:
    tie = Tie({"fc0": 1, "fc2": 2}, (1, 2, 3, 4))
    widths = [4, 5, 8]
    scores = [[float(i + 1) for i in range(n)] for n in widths]
    problem = chain(widths, [tie], [1] * 3, [1] * 3, scores, [3.0, 4.0])
    arguments = (problem.sites, problem.ties, problem.scores, problem.cost)
    start = allocate(*arguments, MACs("60%"), "uniform")
    seen: list[Allocation] = []

    def fitness(allocation: Allocation) -> float:
        seen.append(allocation)
        return 0.0

    run(problem, fitness, MACs("60%"), start=start, calls=1)
    assert seen[0].after == start.after and seen[0].removed == start.removed
    assert all(np.array_equal(k, start.kept[n]) for n, k in seen[0].kept.items())
    with pytest.raises(InputError, match="does not fit the budget"):
        run(problem, fitness, MACs("30%"), start=start)
    odd = Allocation({**start.kept, "fc0": np.arange(0)}, (), start.before, start.after)
    with pytest.raises(InputError, match="a number of fc0 that is not a level"):
        run(problem, fitness, MACs("60%"), start=odd)


def test_uniform_sparsity_stays_a_share_of_every_site() -> None:
    found = run(wide(), want, Sparsity(0.5) & MACs("90%"), how="uniform")
    assert all(len(found.best.kept[f"fc{i}"]) <= n // 2 for i, n in enumerate(WIDTHS))


@pytest.mark.parametrize("name", ["calls", "offspring", "patience", "seconds"])
def test_numbers_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}=0: expected"):
        run(wide(), want, **{name: 0})
