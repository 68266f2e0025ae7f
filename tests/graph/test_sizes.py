"""Traced integers: plain integers to everyone, with an expression behind them."""

from __future__ import annotations

import copy
import json
import math
import operator
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.graph import sizes
from secateur.graph.axes import Axis
from secateur.graph.sizes import OPERATORS, Expr, TracedInt, atoms, call_site, expr_of


@dataclass
class Recorder:
    """Notes what must hold."""

    equations: list[tuple[Expr, Expr]] = field(default_factory=list)
    pins: list[tuple[Expr, float]] = field(default_factory=list)

    def equate(self, left: Expr, right: Expr, what: str) -> None:
        self.equations.append((left, right))

    def pin(self, expr: Expr, value: float) -> None:
        self.pins.append((expr, value))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    sizes.activate(recorder)
    yield recorder
    sizes.activate(None)


def attr(value: int, key: int = 0) -> TracedInt:
    return TracedInt.make(value, ("attr", key))


def evaluate(expr: Expr, values: dict[int, Any]) -> Any:
    if not isinstance(expr, tuple):
        return expr
    if expr[0] == "attr":
        return values[expr[1]]
    return OPERATORS[expr[0]](*[evaluate(part, values) for part in expr[1:]])


BINARY = [operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.pow]


@pytest.mark.parametrize("function", BINARY)
def test_arithmetic_is_that_of_integers_and_remembers(
    function: Callable[[Any, Any], Any], recorder: Recorder
) -> None:
    a, b = attr(12, 0), attr(5, 1)
    for left, right in ((a, b), (a, 5), (12, b)):
        result = function(left, right)
        assert type(result) is TracedInt and int(result) == function(12, 5)
        used = {
            key: value for key, value in ((0, 20), (1, 3)) if ("attr", key) in [*atoms(result.expr)]
        }
        other = function(used.get(0, 12), used.get(1, 5))
        assert evaluate(result.expr, used) == other
    assert evaluate((-a).expr, {0: 7}) == -7


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(BINARY[:5]), st.integers(1, 9), st.booleans()), max_size=6),
    st.integers(1, 99),
    st.integers(1, 99),
)
def test_expressions_evaluate_to_what_the_code_would_compute(
    steps: list[tuple[Callable[[Any, Any], Any], int, bool]], old: int, new: int
) -> None:
    def run(value: Any) -> Any:
        for function, constant, swapped in steps:
            value = (
                function(constant, value) if swapped and value != 0 else function(value, constant)
            )
        return value

    sizes.activate(Recorder())
    try:
        traced = run(attr(old))
    finally:
        sizes.activate(None)
    assert traced == run(old)
    try:
        expected = run(new)
        found = evaluate(expr_of(traced), {0: new})
    except ZeroDivisionError:
        return
    taken = [value == 0 for value in partial(steps, old)] == [
        value == 0 for value in partial(steps, new)
    ]
    assert not taken or found == expected


def partial(steps: list[Any], value: int) -> list[int]:
    """The intermediate values, whose being zero decides a branch of the test."""
    found = []
    for function, constant, swapped in steps:
        found.append(value)
        value = function(constant, value) if swapped and value != 0 else function(value, constant)
    return found


def test_nothing_is_recorded_or_made_while_nobody_listens() -> None:
    assert type(attr(4) + 1) is int
    assert attr(4) == 4


@pytest.mark.parametrize(
    ("compare", "equation"),
    [
        (lambda a: a == 6, (("attr", 0), 6)),
        (lambda a: a == 5, (("eq", ("attr", 0), 5), 0)),
        (lambda a: a != 6, (("attr", 0), 6)),
        (lambda a: a != 5, (("eq", ("attr", 0), 5), 0)),
        (lambda a: a < 7, (("lt", ("attr", 0), 7), 1)),
        (lambda a: a < 6, (("lt", ("attr", 0), 6), 0)),
        (lambda a: a > 5, (("lt", 5, ("attr", 0)), 1)),
        (lambda a: a > 6, (("lt", 6, ("attr", 0)), 0)),
        (lambda a: a <= 6, (("le", ("attr", 0), 6), 1)),
        (lambda a: a >= 7, (("le", 7, ("attr", 0)), 0)),
        (lambda a: 7 > a, (("lt", ("attr", 0), 7), 1)),  # noqa: SIM300
        (lambda a: a % 2 == 0, (("mod", ("attr", 0), 2), 0)),
        (lambda a: min(a, 9), (("lt", 9, ("attr", 0)), 0)),
        (lambda a: a in (5,), (("eq", ("attr", 0), 5), 0)),
        (lambda a: {6: "six"}[a], (("attr", 0), 6)),
    ],
)
def test_comparisons_must_turn_out_the_same(
    compare: Callable[[Any], Any], equation: Any, recorder: Recorder
) -> None:
    compare(attr(6))
    assert recorder.equations == [equation]
    left, right = equation
    assert evaluate(left, {0: 6}) == evaluate(right, {0: 6})


def test_comparison_with_other_types_is_not_recorded(recorder: Recorder) -> None:
    assert attr(6) != "6" and attr(6) is not None and attr(6) != 6.5
    assert recorder.equations == []


@pytest.mark.parametrize(
    "use",
    [
        float,
        math.sqrt,
        lambda a: a**-0.5,
        lambda a: a * 0.5,
        lambda a: a / 2,
        lambda a: 1 / a,
        lambda a: a - 0.5,
        lambda a: a**-1,
        lambda a: a // 2.0,
        lambda a: round(a / 3),
    ],
)
def test_floats_pin_the_value(use: Callable[[Any], Any], recorder: Recorder) -> None:
    use(attr(6))
    assert len(recorder.pins) >= 1
    expr, value = recorder.pins[0]
    assert evaluate(expr, {0: 6}) == pytest.approx(value)
    assert evaluate(expr, {0: 3}) != pytest.approx(value)


@pytest.mark.parametrize("use", [lambda a: 0.5 * a, lambda a: 1.0 / a, math.log2])
def test_what_python_hides_is_left_to_verification(
    use: Callable[[Any], Any], recorder: Recorder
) -> None:
    # float's own methods and math.log read an int subclass without asking it
    use(attr(6))
    assert recorder.pins == []


def test_it_is_an_integer_wherever_one_is_wanted(recorder: Recorder) -> None:
    a = attr(3)
    assert isinstance(a, int) and hash(a) == hash(3) and {3: "x"}[a] == "x" and a in {3}
    assert list(range(a)) == [0, 1, 2] and [10, 20, 30, 40][a] == 40 and "abcd"[:a] == "abc"
    assert f"{a} {a:03d} {a!r}" == "3 003 3" and json.dumps([a]) == "[3]"
    assert (
        [0] * a == [0, 0, 0]
        and sum([a, a]) == 6
        and math.prod([a, a]) == 9
        and divmod(a, 2) == (1, 1)
    )
    assert torch.zeros(a, 2).shape == (3, 2) and np.zeros(a).shape == (3,)
    assert torch.arange(6).view(a, -1).shape == (3, 2) and torch.Size([a]) == (3,)
    assert int(a) == 3 and type(int(a)) is int and operator.index(a) == 3 and bool(a)


def test_sums_and_products_of_python_keep_the_expression(recorder: Recorder) -> None:
    assert evaluate(expr_of(sum([attr(3), attr(4, 1)])), {0: 5, 1: 6}) == 11
    assert evaluate(expr_of(math.prod([attr(3), attr(4, 1)])), {0: 5, 1: 6}) == 30


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_as_a_plain_integer(protocol: int) -> None:
    found = pickle.loads(pickle.dumps([attr(3)], protocol))
    assert found == [3] and type(found[0]) is int


def test_copies_are_plain() -> None:
    assert type(copy.copy(attr(3))) is int
    assert type(copy.deepcopy({"n": [attr(3)]})["n"][0]) is int


def test_atoms_of_an_expression() -> None:
    axis = Axis(4)
    expr = ("add", ("mul", ("attr", 1), 2), ("count", axis))
    assert list(atoms(expr)) == [("attr", 1), ("count", axis)]
    assert list(atoms(5)) == []
    assert expr_of(5) == 5 and expr_of(attr(5)) == ("attr", 0)


def test_call_site_is_the_users_line() -> None:
    assert call_site().startswith("graph/test_sizes.py:")
    line = int(call_site().rsplit(":", 1)[1])
    assert "int(call_site()" in Path(__file__).read_text().splitlines()[line - 1]


def test_paths_hide_the_machine() -> None:
    assert (
        sizes.short_path("/home/me/venv/site-packages/timm/models/vit.py") == "timm/models/vit.py"
    )
    assert sizes.short_path("/home/me/secret/project/model.py") == "project/model.py"
