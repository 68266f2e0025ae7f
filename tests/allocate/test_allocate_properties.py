"""Allocation: budgets met from below, nothing left on the table, ties and levels honoured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from allocation_problems import Problem, chain, numbers, problems
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.allocate import Allocation, allocate
from secateur.core.budget import Budget, Bytes, MACs, Params, Sparsity
from secateur.core.errors import InfeasibleBudget

ORDERS = ["uniform", "global", "isomorphic", "erk", "lamp", "owl", "sensitivity"]
HOW = st.sampled_from([*ORDERS, "knapsack"])
KINDS = st.sampled_from([Params, MACs, Bytes])
SHARES = st.integers(5, 100)
quick = settings(deadline=None, max_examples=60)


def attempt(problem: Problem, budget: Budget, how: Any) -> Allocation | None:
    """The allocation, or None where the budget is out of reach."""
    try:
        return allocate(problem.sites, problem.ties, problem.scores, problem.cost, budget, how)
    except InfeasibleBudget:
        return None


def amount(problem: Problem, counts: dict[str, int], removed: set[str], kind: str) -> int:
    return int(getattr(problem.cost.total(counts, removed), kind))


@quick
@given(problems(), KINDS, SHARES, HOW)
def test_the_budget_holds_and_no_further_step_fits(
    problem: Problem, kind: type[Any], share: int, how: str
) -> None:
    budget = kind(f"{share}%")
    found = attempt(problem, budget, how)
    assume(found is not None)
    assert found is not None
    counts, gone = {name: len(keep) for name, keep in found.kept.items()}, set(found.removed)
    most = budget.ceiling(getattr(found.before, kind.kind))
    assert found.after == problem.cost.total(counts, gone)
    assert getattr(found.after, kind.kind) <= most
    for tie in problem.ties:
        ours = [name for name in tie.ratios if name in counts]
        if not ours:
            continue
        level = counts[ours[0]] // tie.ratios[ours[0]]
        assert level in problem.levels(tie)
        assert all(counts[name] == tie.ratios[name] * level for name in ours)
        higher = [other for other in problem.levels(tie) if other > level]
        if higher:
            more = {**counts, **{name: tie.ratios[name] * higher[0] for name in ours}}
            assert amount(problem, more, gone, kind.kind) > most
    if gone:
        back = {b: density(problem, b, kind.kind) for b in found.removed}
        assert amount(problem, counts, gone - {max(back, key=back.__getitem__)}, kind.kind) > most


def density(problem: Problem, block: str, kind: str) -> float:
    """Blocks are ranked together by score per cost: only the best removed one could come back."""
    saved = getattr(problem.cost.index(problem.site(block)), kind)
    return float(problem.scores[block][0]) / saved


@quick
@given(problems(), KINDS, SHARES, HOW)
def test_every_site_keeps_its_best_indices(
    problem: Problem, kind: type[Any], share: int, how: str
) -> None:
    found = attempt(problem, kind(f"{share}%"), how)
    assume(found is not None)
    assert found is not None
    assert set(found.kept) == {site.name for site in problem.sites if site.module is None}
    for name, keep in found.kept.items():
        score = problem.scores[name].numpy()
        best = sorted(range(len(score)), key=lambda i: (-score[i], i))[: len(keep)]
        assert keep.dtype == np.int64
        assert numbers(keep) == sorted(best)
        assert len(keep) >= 1


@quick
@given(problems(), KINDS, SHARES, SHARES, st.sampled_from(ORDERS))
def test_a_larger_budget_never_gives_a_smaller_model(
    problem: Problem, kind: type[Any], first: int, second: int, how: str
) -> None:
    small, large = sorted((first, second))
    less, more = (attempt(problem, kind(f"{s}%"), how) for s in (small, large))
    if less is None:
        return
    assert more is not None
    assert getattr(less.after, kind.kind) <= getattr(more.after, kind.kind)


@quick
@given(problems(), SHARES, SHARES, HOW)
def test_all_of_several_budgets_hold(problem: Problem, a: int, b: int, how: str) -> None:
    found = attempt(problem, Params(f"{a}%") & MACs(f"{b}%"), how)
    assume(found is not None)
    assert found is not None
    assert found.after.params <= Params(f"{a}%").ceiling(found.before.params)
    assert found.after.macs <= MACs(f"{b}%").ceiling(found.before.macs)


@quick
@given(problems(), KINDS, HOW)
def test_a_budget_is_refused_only_when_the_floors_cost_more(
    problem: Problem, kind: type[Any], how: str
) -> None:
    floors = {
        name: tie.ratios[name] * problem.levels(tie)[0]
        for tie in problem.ties
        for name in tie.ratios
    }
    blocks = {site.name for site in problem.sites if site.module}
    least = amount(problem, floors, blocks, kind.kind)
    assert attempt(problem, kind(least), how) is not None
    with pytest.raises(InfeasibleBudget, match=f"the least is {least:,} {kind.kind}"):
        allocate(
            problem.sites, problem.ties, problem.scores, problem.cost, kind(least - 1), how
        )  # fmt: skip


@quick
@given(problems(), KINDS, HOW)
def test_the_whole_budget_keeps_the_whole_model(
    problem: Problem, kind: type[Any], how: str
) -> None:
    found = attempt(problem, kind("100%"), how)
    assert found is not None
    assert found.after == found.before
    assert all(len(found.kept[name]) == problem.site(name).n for name in found.kept)


@quick
@given(problems(), st.integers(0, 99))
def test_uniform_sparsity_is_a_share_of_every_site(problem: Problem, percent: int) -> None:
    budget = Sparsity(percent / 100)
    found = attempt(problem, budget, "uniform")
    assert found is not None
    for tie in problem.ties:
        allowed = problem.levels(tie)
        most = (100 - percent) * tie.levels[-1] // 100
        expected = max([level for level in allowed if level <= most], default=allowed[0])
        for name in set(tie.ratios) & set(found.kept):
            assert len(found.kept[name]) == tie.ratios[name] * expected
    blocks = [site for site in problem.sites if site.module]
    assert len(blocks) - len(found.removed) == (100 - percent) * len(blocks) // 100


@quick
@given(problems(), st.integers(0, 99), KINDS, SHARES)
def test_uniform_sparsity_is_not_refilled_under_a_cost(
    problem: Problem, percent: int, kind: type[Any], share: int
) -> None:
    alone = attempt(problem, Sparsity(percent / 100), "uniform")
    both = attempt(problem, Sparsity(percent / 100) & kind(f"{share}%"), "uniform")
    assume(both is not None)
    assert alone is not None and both is not None
    assert all(len(keep) <= len(alone.kept[name]) for name, keep in both.kept.items())
    assert len(alone.removed) <= len(both.removed)  # which ones: by score per that cost


@quick
@given(problems(), st.integers(0, 99), HOW.filter(lambda how: how != "uniform"))
def test_global_sparsity_is_a_share_of_all_units(problem: Problem, percent: int, how: str) -> None:
    found = attempt(problem, Sparsity(percent / 100), how)
    assume(found is not None)
    assert found is not None
    total = sum(site.n for site in problem.sites)
    kept = sum(map(len, found.kept.values())) + sum(
        site.module is not None and site.name not in found.removed for site in problem.sites
    )
    assert kept <= (100 - percent) * total // 100


def reference(problem: Problem, most: int) -> dict[str, int]:
    """Global allocation of single free sites the slow way: remove the worst index, then refill."""
    counts = {site.name: site.n for site in problem.sites}
    queue = []
    for position, site in enumerate(problem.sites):
        ranked = sorted(
            (
                problem.scores[site.name].double() / problem.scores[site.name].double().mean()
            ).tolist()
        )
        queue += [
            (s, -(site.n - i) / site.n, position, site.name) for i, s in enumerate(ranked[:-1])
        ]
    taken = []
    for step in sorted(queue):
        if problem.cost.total(counts).macs <= most:
            break
        counts[step[-1]] -= 1
        taken.append(step[-1])
    for name in reversed(taken):
        if problem.cost.total({**counts, name: counts[name] + 1}).macs <= most:
            counts[name] += 1
    return counts


@quick
@given(
    st.lists(
        st.lists(st.integers(1, 64).map(lambda n: n / 8), min_size=2, max_size=8),
        min_size=1,
        max_size=4,
    ),
    st.integers(20, 100),
)
def test_global_agrees_with_the_slow_way(scores: list[list[float]], share: int) -> None:
    n = len(scores)
    problem = chain([len(s) for s in scores], [], [1] * n, [1] * n, scores, [])
    found = attempt(problem, MACs(f"{share}%"), "global")
    assume(found is not None)
    assert found is not None
    expected = reference(problem, MACs(f"{share}%").ceiling(found.before.macs))
    assert {name: len(keep) for name, keep in found.kept.items()} == expected
