"""Budgets that are measured: what they accept, what they refuse, and what they allow."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import pytest

from secateur.core.errors import RecipeError
from secateur.core.goal import Drop, Latency, PeakMemory, Quality


@pytest.mark.parametrize(
    ("budget", "before", "allowed"),
    [
        (Drop(1), 0.87, 0.01),
        (Drop(1), 87.0, 1.0),
        (Drop(1, scale=100), 1.2, 1.0),
        (Drop(0.5, scale=1), 0.3, 0.005),
        (Drop("2 points"), 0.5, 0.02),
        (Drop(2, scale=100, lower_is_better=True), 4.0, 2.0),
        (Drop(relative=0.02), 0.5, 0.01),
        (Drop(relative="2%"), -50.0, 1.0),
        (Drop("2%"), 50.0, 1.0),
        (Drop(absolute=3), -7.0, 3.0),
        (Drop(nats=0.05), 1.8, 0.05),
        (Drop(0), 0.9, 0.0),
        (Quality(at_least=0.9), 0.95, 0.05),
        (Quality(at_least=0.9), 0.85, -0.05),
        (Quality(at_most=2.0), 1.8, 0.2),
        (Quality(at_most=2.0), 2.5, -0.5),
    ],
)
def test_what_is_allowed(budget: Drop | Quality, before: float, allowed: float) -> None:
    assert budget.allowed(before) == pytest.approx(allowed)


@pytest.mark.parametrize(
    ("budget", "default", "lower"),
    [
        (Drop(1), None, False),
        (Drop(1), True, True),
        (Drop(absolute=1, lower_is_better=False), True, False),
        (Drop(absolute=1, lower_is_better=True), None, True),
        (Drop(nats=1), None, True),
        (Quality(at_least=1), True, False),
        (Quality(at_most=1), False, True),
    ],
)
def test_which_way_is_better(budget: Any, default: bool | None, lower: bool) -> None:
    assert budget.lower_wins(default) is lower


def test_confidence_is_one_sided() -> None:
    assert Drop(1).z == pytest.approx(1, abs=0.01)
    assert Drop(1, confidence=0.5).z == 0
    assert NormalDist().cdf(Quality(at_least=0, confidence=0.975).z) == pytest.approx(0.975)


def test_points_of_what_is_no_percentage() -> None:
    for before in (231.0, -0.5):
        with pytest.raises(RecipeError, match="relative="):
            Drop(1).allowed(before)
    with pytest.raises(RecipeError):
        Drop(1, scale=1).allowed(1.2)


def test_latency_of_a_share_and_of_milliseconds() -> None:
    assert Latency("60%").ceiling(10) == pytest.approx(6)
    assert Latency(ms=4).ceiling(10) == 4
    assert Latency("500us") == Latency(ms=0.5)
    assert PeakMemory("25%").ceiling(4001) == 1000


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"limit": 4}, {"limit": 0.6}, {"limit": "60"}, {"limit": "0%"}, {"limit": "101%"},
        {"limit": "60%", "ms": 4}, {"ms": 0}, {"ms": -1}, {"ms": float("nan")}, {"ms": True},
        {"limit": "60%", "batch": 0}, {"limit": "60%", "batch": 1.5}, {"ms": 4, "threads": True},
    ],
)  # fmt: skip
def test_latency_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Latency(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"points": -1}, {"points": float("inf")}, {"points": 100}, {"points": True},
        {"points": 1, "relative": 0.1}, {"relative": 1}, {"relative": 2}, {"relative": "two"},
        {"absolute": -1}, {"nats": "x"}, {"nats": 1, "lower_is_better": False},
        {"points": 1, "lower_is_better": True}, {"points": 1, "scale": 10},
        {"absolute": 1, "scale": 1}, {"points": 1, "confidence": 1}, {"points": 1, "confidence": 0},
        {"points": 1, "confidence": "high"}, {"absolute": 1, "lower_is_better": "no"},
    ],
)  # fmt: skip
def test_drop_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Drop(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"at_least": 1, "at_most": 2}, {"at_least": float("nan")}, {"at_most": "low"},
     {"at_least": True}, {"at_least": 1, "confidence": 0.4}],
)  # fmt: skip
def test_quality_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Quality(**arguments)


def test_hints_say_what_was_meant() -> None:
    with pytest.raises(RecipeError, match=r"did you mean Drop\('2%'\)"):
        Drop(relative=2)
    with pytest.raises(RecipeError, match=r"Latency\(ms=4\)"):
        Latency(4)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="scale=100"):
        Drop(1, lower_is_better=True)
