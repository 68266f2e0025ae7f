"""Monomials of kept counts: one point or many, against the layouts' own counts."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.errors import InputError
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.measure.program import Program

A, B = Leaf("a", 5), Leaf("b", 4)
GATES = Concat((A, A, Fixed(2), B))
NEST = Product((Concat((GATES, B)), A))
ROWS: list[list[Layout]] = [[A], [A, B], [A, A], [GATES, Fixed(3)], [NEST, B], [Fixed(7)]]


def compiled(scale: int = 1) -> tuple[Program, list[tuple[int, int]]]:
    program = Program()
    found = [program.monomial(row) for row in ROWS]
    program.compile([scale] * len(found), [number for _, number in found])
    return program, found


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=6))
def test_many_points_are_what_each_alone_is(points: list[tuple[int, int]]) -> None:
    program, found = compiled()
    a, b = np.array(points).T
    table = program.run({"a": a, "b": b})
    assert table.shape == (program.monomials, len(points))
    for k, (x, y) in enumerate(points):
        single = program.run({"a": x, "b": y})
        assert np.array_equal(table[:, k], single)
        for row, (constant, number) in zip(ROWS, found, strict=True):
            counted = prod(layout.count({"a": x, "b": y}) for layout in row)
            assert constant * int(single[number]) == counted


def test_a_count_for_all_points_is_spread() -> None:
    program, _ = compiled()
    spread = program.run({"a": np.arange(6), "b": 3})
    assert np.array_equal(spread, program.run({"a": np.arange(6), "b": np.full(6, 3)}))


def test_huge_numbers_stay_exact_at_many_points() -> None:
    program, found = compiled(2**62)
    assert program.dtype == object
    table: Any = program.run({"a": np.array([1, 5])})
    assert [int(v) for v in table[found[0][1]]] == [1, 5]


@pytest.mark.parametrize("counts", [np.array([1, 6]), np.array([-1, 2]), 6])
def test_impossible_counts_are_refused_anywhere(counts: Any) -> None:
    program, _ = compiled()
    with pytest.raises(InputError, match=r"a cannot keep (6|-1) of 5"):
        program.run({"a": counts})
