"""The database of measured errors: isotonic, interpolated, and clear about what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from allocation_problems import chain
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from secateur.allocate import Database
from secateur.allocate.ladder import ladders
from secateur.core.errors import InputError
from secateur.core.site import Tie

POINTS = st.dictionaries(st.integers(0, 19), st.floats(0, 5), min_size=1)


@settings(deadline=None)
@given(POINTS)
def test_it_is_the_isotonic_regression_at_the_measured_counts(points: dict[int, float]) -> None:
    known = sorted(points)
    given_errors = [*(points[k] for k in known), 0.0]
    expected = isotonic_regression(given_errors, increasing=False).x
    found = Database({"a": points}).at("a", 20, [*known, 20])
    assert found == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(POINTS)
def test_it_never_rises_and_ends_at_zero(points: dict[int, float]) -> None:
    found = Database({"a": points}).at("a", 20, list(range(21)))
    assert np.all(np.diff(found) <= 1e-9)
    assert found[-1] == 0 and np.all(found >= 0)


def test_between_counts_it_is_linear_and_below_them_the_slope_goes_on() -> None:
    database = Database({"a": {4: 0.8, 6: 0.2, 8: 0.0}})
    assert database.at("a", 8, [2, 3, 5, 7]) == pytest.approx([1.4, 1.1, 0.5, 0.1])
    assert Database({"a": {8: 0.0}}).at("a", 8, [1, 8]).tolist() == [0.0, 0.0]


def test_a_tie_is_found_under_any_of_its_names_in_that_site_s_counts() -> None:
    tie = Tie({"fc0": 1, "fc1": 2}, (1, 2, 3, 4))
    problem = chain([4, 8], [tie], [1, 1], [1, 1], [[1.0] * 4, [1.0] * 8], [])
    steps, _ = ladders(problem.sites, problem.ties, problem.scores)
    assert Database({"fc0": {2: 1.0}}).errors(steps[0]) == pytest.approx([1.5, 1.0, 0.5, 0.0])
    assert Database({"fc1": {4: 1.0}}).errors(steps[0]) == pytest.approx([1.5, 1.0, 0.5, 0.0])


def test_the_errors_of_blocks_add_up_in_the_order_in_which_they_go() -> None:
    problem = chain([1], [], [1], [1], [[1.0]], [6.0, 24.0, 20.0])
    steps, _ = ladders(problem.sites, (), problem.scores)
    assert steps[-1].blocks == ("block1", "block2", "block0")
    database = Database({"block0": {0: 1.0}, "block1": {0: 4.0}, "block2": {0: 2.0}})
    assert database.errors(steps[-1]).tolist() == [7.0, 3.0, 1.0, 0.0]
    assert database.errors(steps[0]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"fc0": {2: float("nan")}}, "the error of fc0 at 2 kept indices is nan"),
        ({"fc0": {2: float("inf")}}, "the error of fc0 at 2 kept indices is inf"),
        ({"fc0": {2: -0.5}}, "is -0.5, which is negative"),
        ({"fc0": {}}, "no measurement of fc0"),
        ({"fc0": {5: 0.1}}, "keeps 5 of the 4 indices of fc0"),
        ({"fc0": {-1: 0.1}}, "keeps -1 of the 4 indices of fc0"),
        ({"fc0": {4: 0.1}}, "with all 4 indices kept is 0.1, not 0"),
        ({"fc9": {1: 0.1}}, "no measurement of fc0\nhint: .* it knows fc9"),
        ({}, "no measurement of fc0"),
    ],
)
def test_what_is_wrong_is_said(entries: dict[str, dict[int, float]], message: str) -> None:
    problem = chain([4], [], [1], [1], [[1.0] * 4], [])
    with pytest.raises(InputError, match=message):
        ladders(problem.sites, (), problem.scores, database=Database(entries))


def test_a_missing_block_is_said() -> None:
    problem = chain([1], [], [1], [1], [[1.0]], [6.0])
    with pytest.raises(InputError, match="no site block0"):
        ladders(problem.sites, (), problem.scores, database=Database({}))
