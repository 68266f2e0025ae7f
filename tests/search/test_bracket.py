"""The search over shares, on made-up outcomes of every shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.search.bracket import CLOSE, Bracket


def look(
    bracket: Bracket, margin: Callable[[float], float], most: int = 60, grain: float = 0.0
) -> list[float]:
    """The shares that are tried; networks come in steps of `grain`."""
    tried: list[float] = []
    while len(tried) < most and (share := bracket.next()) is not None:
        tried.append(share)
        left = share if not grain else max(grain, math.floor(share / grain) * grain)
        bracket.add(share, left, margin(left))
    return tried


SHAPES: dict[str, Callable[[float, float], float]] = {
    "line": lambda s, at: s - at,
    "exponential": lambda s, at: 1 - math.exp(8 * (at - s)),
    "step": lambda s, at: 1.0 if s >= at else -50.0,
    "cliff": lambda s, at: 0.001 if s >= at else -1000.0,
    "power": lambda s, at: 1 - (at / s) ** 3,
}


@settings(deadline=None, max_examples=200)
@given(st.floats(0.035, 0.96), st.sampled_from(sorted(SHAPES)))
def test_the_smallest_that_does_is_found(at: float, shape: str) -> None:
    bracket = Bracket(smallest=True)
    tried = look(bracket, lambda s: SHAPES[shape](s, at))
    assert len(tried) <= 40
    assert at <= bracket.best <= at * CLOSE * 1.02
    assert all(bracket.low <= share <= bracket.high for share in tried)


@settings(deadline=None, max_examples=200)
@given(st.floats(0.035, 0.96), st.sampled_from(sorted(SHAPES)))
def test_the_largest_that_does_is_found(at: float, shape: str) -> None:
    bracket = Bracket(smallest=False)
    look(bracket, lambda s: SHAPES[shape](at * at / s, at))
    assert at / (CLOSE * 1.02) <= bracket.best <= at * (1 + 1e-9)


@pytest.mark.parametrize("smallest", [True, False])
@pytest.mark.parametrize("at", [0.1, 0.2, 0.33, 0.45, 0.6, 0.75, 0.9])
def test_seven_trials_come_close(at: float, smallest: bool) -> None:
    bracket = Bracket(smallest)
    tried = look(bracket, lambda s: 1 - (at / s if smallest else s / at) ** 2, most=7)
    assert len(tried) <= 7
    assert max(bracket.best / at, at / bracket.best) < 1.1


def test_everything_does_and_nothing_does() -> None:
    for smallest, margin, end in ((True, 1.0, 0.03), (False, 1.0, 0.97)):
        bracket = Bracket(smallest)
        look(bracket, lambda s, m=margin: m)
        assert bracket.best == pytest.approx(end, rel=CLOSE - 1)
    for smallest, end in ((True, 0.97), (False, 0.03)):
        bracket = Bracket(smallest)
        tried = look(bracket, lambda s: -1.0)
        assert math.isnan(bracket.best)
        assert tried[-1] == pytest.approx(end, rel=CLOSE - 1)
        assert len(tried) <= 7


def test_networks_that_come_in_steps_are_not_tried_twice() -> None:
    bracket = Bracket(smallest=True)
    tried = look(bracket, lambda s: s - 0.5, grain=0.25)
    assert bracket.best == 0.5
    assert len(tried) <= 8


@settings(deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=60, max_size=60), st.booleans())
def test_noise_never_makes_it_endless_or_lose_the_best(
    margins: list[float], smallest: bool
) -> None:
    bracket, given = Bracket(smallest), iter(margins)
    seen: dict[float, float] = {}

    def margin(share: float) -> float:
        seen[share] = next(given)
        return seen[share]

    look(bracket, margin, most=60)
    good = [share for share, value in seen.items() if value >= 0]
    if good:
        assert bracket.best == (min(good) if smallest else max(good))


def test_what_cannot_be_built_is_not_asked_for_again() -> None:
    for smallest in (True, False):
        bracket = Bracket(smallest)
        tried = []
        while len(tried) < 40 and (share := bracket.next()) is not None:
            tried.append(share)
            if share < 0.4:
                bracket.unreachable(share)
            else:
                bracket.add(share, share, 1.0 if smallest else -1.0)
        below = [share for share in tried if share < 0.4]
        assert below == sorted(below)
        assert len(tried) < 40
