"""Allocation: cases by hand, what is said, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from allocation_problems import chain, numbers, small

from secateur.allocate import allocate, allocator, resolve
from secateur.core.budget import Bytes, MACs, Params, Sparsity
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError
from secateur.core.site import Tie
from secateur.score import Scores


def test_a_small_case_by_hand() -> None:
    problem = small()
    found = allocate(problem.sites, problem.ties, problem.scores, problem.cost, Sparsity(0.5))
    assert {name: numbers(keep) for name, keep in found.kept.items()} == {
        "fc0": [0, 1],
        "fc1": [2, 3],
    }
    assert found.removed == () and found.notes == ()
    assert found.after.params == 2 * 3 + 2 + 2 * 2 + 2 + 2 * 2 + 2


def test_global_compares_sites_by_their_mean() -> None:
    scores = [[100.0, 100.0, 100.0, 1.0], [0.1, 0.1, 0.1, 0.1]]
    problem = chain([4, 4], [], [1, 1], [1, 1], scores, [])
    found = allocate(problem.sites, (), problem.scores, problem.cost, Sparsity(0.125))
    assert [len(found.kept[name]) for name in ("fc0", "fc1")] == [3, 4]


def test_scores_in_one_unit_are_compared_as_they_are() -> None:
    scores = [[100.0, 100.0, 100.0, 1.0], [0.1, 0.1, 0.1, 0.1]]
    problem = chain([4, 4], [], [1, 1], [1, 1], scores, [])
    given = Scores(problem.scores)
    given.comparable = True
    found = allocate(problem.sites, (), given, problem.cost, Sparsity(0.125))
    assert [len(found.kept[name]) for name in ("fc0", "fc1")] == [4, 3]


def test_negative_scores_keep_their_order() -> None:
    problem = chain([4], [], [1], [1], [[-1.0, -4.0, -2.0, -3.0]], [])
    found = allocate(problem.sites, (), problem.scores, problem.cost, Sparsity(0.5))
    assert numbers(found.kept["fc0"]) == [0, 2]


def test_equal_scores_thin_all_sites_alike_and_keep_the_first_indices() -> None:
    problem = chain([8, 8, 4], [], [1] * 3, [1] * 3, [[1.0] * 8, [1.0] * 8, [3.0] * 4], [])
    for how in ("global", "uniform", "isomorphic"):
        found = allocate(problem.sites, (), problem.scores, problem.cost, Sparsity(0.5), how)
        assert numbers(found.kept["fc0"]) == [0, 1, 2, 3]
        assert numbers(found.kept["fc2"]) == [0, 1]


def test_uniform_under_a_cost_keeps_equal_shares() -> None:
    scores = [[float(i) for i in range(64)], [1.0] * 32, [float(i % 5) for i in range(16)]]
    problem = chain([64, 32, 16], [], [1] * 3, [1] * 3, scores, [])
    found = allocate(problem.sites, (), problem.scores, problem.cost, MACs("30%"), "uniform")
    shares = [len(found.kept[f"fc{i}"]) / n for i, n in enumerate([64, 32, 16])]
    assert max(shares) - min(shares) <= 1 / 16


def test_isomorphic_takes_the_same_share_of_every_class() -> None:
    from dataclasses import replace

    scores = [[float(i + 1) for i in range(16)], [100.0 * (i + 1) ** 3 for i in range(16)]]
    problem = chain([16, 16], [], [1, 1], [1, 1], scores, [])
    other = (problem.sites[0], replace(problem.sites[1], what="hidden units"))
    found = allocate(other, (), problem.scores, problem.cost, Sparsity(0.25), "isomorphic")
    assert [len(found.kept[name]) for name in ("fc0", "fc1")] == [12, 12]
    found = allocate(problem.sites, (), problem.scores, problem.cost, Sparsity(0.25), "isomorphic")
    assert len(found.kept["fc1"]) < len(found.kept["fc0"])


def test_blocks_compete_by_score_per_cost() -> None:
    problem = chain([4], [], [1], [1], [[1.0] * 4], [6.0, 12.0, 19.0])
    sites = [site for site in problem.sites if site.module]
    params = [problem.cost.index(site).params for site in sites]
    assert params == [6, 12, 20]
    found = allocate(sites, (), problem.scores, problem.cost, Params("90%"))
    assert found.removed == ("block2",)
    assert found.kept == {}


def test_a_block_inside_a_removed_one_is_not_listed_again() -> None:
    from torch import nn

    from secateur.core.site import Site
    from secateur.graph.graph import Graph
    from secateur.measure.cost import Cost

    net = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2)), "b": nn.Linear(9, 9)})
    sites = [Site(name, "layer", 1, floor=0, module=name) for name in ("a", "a.0")]
    scores = {site.name: torch.ones(1) for site in sites}
    cost = Cost(Graph({}, {}, {}, (), (), (), ()), net)
    found = allocate(sites, (), scores, cost, Sparsity(0.99), "uniform")
    assert found.removed == ("a",)
    assert found.after.params == 90


def test_a_tie_that_leaves_the_scope_stays_whole_and_says_so() -> None:
    tie = Tie({"fc0": 1, "fc1": 1}, (1, 2, 3, 4), "model.py:12")
    problem = chain(
        [4, 4, 4], [tie], [1] * 3, [1] * 3, [[1.0] * 4] * 3, [], missing=frozenset({"fc1"})
    )
    found = allocate(problem.sites, problem.ties, problem.scores, problem.cost, Sparsity(0.25))
    assert {name: len(keep) for name, keep in found.kept.items()} == {"fc0": 4, "fc2": 2}
    [note] = found.notes
    assert note.startswith("fc0 must stay whole: tied to fc1") and "model.py:12" in note


def test_multiples_that_nothing_satisfies_keep_a_tie_whole_and_say_so() -> None:
    problem = chain([5, 16], [], [1, 1], [8, 8], [[1.0] * 5, [1.0] * 16], [])
    found = allocate(problem.sites, (), problem.scores, problem.cost, Sparsity(0.3))
    assert {name: len(keep) for name, keep in found.kept.items()} == {"fc0": 5, "fc1": 8}
    assert found.notes == (
        "fc0 must stay whole: no smaller size suits fc0 of 5 (floor 1, multiple 8)",
    )


def test_what_is_reachable_is_said_in_the_user_s_unit() -> None:
    problem = small()
    arguments = (problem.sites, problem.ties, problem.scores, problem.cost)
    with pytest.raises(InfeasibleBudget, match=r"MACs\('1%'\) .* the least is 16.67% of the macs"):
        allocate(*arguments, MACs("1%"))
    with pytest.raises(InfeasibleBudget, match=r"Bytes\(8\) .* the least is 40 bytes"):
        allocate(*arguments, Bytes(8))
    with pytest.raises(InfeasibleBudget, match=r"Sparsity\(0.9\) .* the most is Sparsity\(0.75\)"):
        allocate(*arguments, Sparsity(0.9))
    with pytest.raises(InfeasibleBudget, match=r"Params\(1\) .*; MACs\(1\) .*\nhint: lower floor"):
        allocate(*arguments, Params(1) & MACs(1) & Bytes("100%"))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, float("nan"), 1.0, 1.0], "score of index 1 of fc0 is nan"),
        ([1.0, 1.0, float("inf"), 1.0], "score of index 2 of fc0 is inf"),
        ([1.0, 1.0], r"fc0 has 4 indices but scores of shape \(2,\)"),
        (None, "no scores for fc0"),
    ],
)
def test_bad_scores_are_refused(scores: list[float] | None, message: str) -> None:
    problem = small()
    given = {"fc1": problem.scores["fc1"]}
    if scores is not None:
        given["fc0"] = torch.tensor(scores)
    with pytest.raises(InputError, match=message):
        allocate(problem.sites, problem.ties, given, problem.cost, Sparsity(0.5))


def test_bad_arguments_are_refused() -> None:
    problem = small()
    arguments = (problem.ties, problem.scores, problem.cost)
    with pytest.raises(RecipeError, match="nothing to prune"):
        allocate((), *arguments, Sparsity(0.5))
    with pytest.raises(RecipeError, match="not a budget"):
        allocate(problem.sites, *arguments, 0.5)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="did you mean uniform"):
        allocate(problem.sites, *arguments, Sparsity(0.5), "uniforn")
    with pytest.raises(InputError, match="ends at 1 x 3, not 4"):
        allocate(problem.sites, [Tie({"fc0": 1}, (1, 3))], *arguments[1:], Sparsity(0.5))


def test_a_user_s_allocator_works_bare_and_registered() -> None:
    problem = small()

    def first_site_first(ladders: Any) -> list[np.ndarray]:
        """Empties the first ladder before the second."""
        return [np.full(len(ladder.levels) - 1, float(i)) for i, ladder in enumerate(ladders)]

    arguments = (problem.sites, problem.ties, problem.scores, problem.cost, Sparsity(0.375))
    found = allocate(*arguments, first_site_first)
    assert {name: len(keep) for name, keep in found.kept.items()} == {"fc0": 1, "fc1": 4}
    made = allocator("test-first-site")(first_site_first)
    assert resolve("test-first-site") is made and made.__doc__ == first_site_first.__doc__
    assert allocate(*arguments, "test-first-site").after == found.after
    with pytest.raises(RecipeError, match="one number a step"):
        allocate(*arguments, lambda ladders: [np.zeros(1) for _ in ladders])


def test_few_cost_evaluations_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    widths = [512] * 30
    scores = [rng.random(512).tolist() for _ in widths]
    problem = chain(widths, [], [1] * 30, [1] * 30, scores, [])
    calls, total = [0], problem.cost.total

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return total(*arguments)

    monkeypatch.setattr(problem.cost, "total", counted)
    allocate(problem.sites, (), problem.scores, problem.cost, MACs("40%"))
    assert calls[0] < 100
