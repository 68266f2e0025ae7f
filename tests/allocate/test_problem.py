"""The problem's own moves: amounts at many levels, bisection from a start, refilling."""

from __future__ import annotations

import numpy as np
import pytest
from allocation_problems import Problem as Given
from allocation_problems import chain, problems, small
from hypothesis import given, settings

from secateur.allocate.problem import Nanoseconds, Problem, outermost
from secateur.core.budget import Bytes, MACs, Params, Sparsity
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.measure.cost import Cost
from secateur.measure.program import Counts


def problem(source: Given, *budgets: object) -> Problem:
    budget = budgets[0]
    for other in budgets[1:]:
        budget = budget & other  # type: ignore[operator]
    return Problem(source.sites, source.ties, source.scores, source.cost, budget)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(problems())
def test_a_curve_is_the_cost_at_every_level(source: Given) -> None:
    made = problem(source, MACs("100%"), Params("100%"), Bytes("100%"), Sparsity(0))
    here = made.steps // 2
    for i, ladder in enumerate(made.ladders):
        curve = made.curve(i, here)
        assert curve.shape == (4, len(ladder.levels))
        for k in range(len(ladder.levels)):
            down = here.copy()
            down[i] = len(ladder.levels) - 1 - k
            amounts, units = made.amounts(down)
            assert curve[:, k].tolist() == [amounts.macs, amounts.params, amounts.bytes, units]


def test_descending_starts_from_a_start_and_refills_it() -> None:
    made = problem(small(), Sparsity(0.5))
    order = np.array([0, 0, 0, 1, 1, 1])
    assert made.descend(order).tolist() == [3, 1]
    assert made.descend(order, np.array([0, 3])).tolist() == [1, 3]
    assert made.descend(order, np.array([1, 3])).tolist() == [1, 3]
    assert made.descend(order, np.array([3, 3])).tolist() == [3, 1]
    assert made.descend(order[::-1], np.array([3, 3])).tolist() == [1, 3]


def test_filling_does_not_need_the_order_to_be_a_prefix() -> None:
    made = problem(small(), Sparsity(0.25))
    full = made.fill(np.array([3, 3]), np.array([0, 1, 0, 1, 0, 1]))
    assert made.fits(full) and full.sum() == 2
    assert made.fill(np.array([0, 2]), np.array([0, 1, 0, 1, 0, 1])).tolist() == [0, 2]


def test_a_budget_in_time_needs_a_table() -> None:
    with pytest.raises(RecipeError, match=r"Nanoseconds\(5\) needs predicted times"):
        problem(small(), Nanoseconds(5))


class Slow:
    """A table: a millisecond an index of fc0, and one that stays."""

    def ns(self, counts: Counts, removed: object = ()) -> object:
        return 1_000_000 * (1 + counts.get("fc0", 4))


def test_a_budget_in_time_is_met_by_what_the_table_says() -> None:
    source = small()
    cost = Cost(source_graph(source), net(source), table=Slow())
    arguments = (source.sites, source.ties, source.scores, cost)
    made = Problem(*arguments, Nanoseconds(3_500_000))
    for order in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]):
        found = made.allocation(made.descend(np.array(order)))
        assert len(found.kept["fc0"]) == 2 and found.after.ns == 3_000_000
        assert len(found.kept["fc1"]) == 4 and found.before.ns == 5_000_000
    with pytest.raises(InfeasibleBudget, match="the least is 2 ms"):
        Problem(*arguments, Nanoseconds(1_000_000))


def net(source: Given) -> object:
    from torch import nn

    return nn.ModuleDict({"fc0": nn.Linear(3, 4), "fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 2)})


def source_graph(source: Given) -> object:
    from secateur.core.layout import Fixed, Leaf
    from secateur.graph.graph import Graph

    a, b = Leaf("fc0", 4), Leaf("fc1", 4)
    layouts = {"fc0.weight": (a, Fixed(3)), "fc1.weight": (b, a), "fc2.weight": (Fixed(2), b)}
    return Graph(layouts, {}, {}, (), (), (), ())


def test_blocks_inside_removed_blocks_are_not_outermost() -> None:
    assert outermost(["a.b", "a", "ab", "c.d"]) == ("a", "ab", "c.d")


def test_removed_blocks_come_in_the_order_of_the_sites() -> None:
    made = problem(chain([1], [], [1], [1], [[1.0]], [3.0, 1.0, 2.0]), Sparsity(0))
    assert made.removed(np.array([0, 2])) == ("block1", "block2")
    assert made.counts(np.array([0, 2])) == {"fc0": 1}
