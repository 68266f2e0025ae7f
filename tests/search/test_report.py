"""What is said of a search, from records."""

from __future__ import annotations

import pytest
from building import digits_case

from secateur.core.attempt import Attempt
from secateur.core.budget import Budget, Drop, PeakMemory
from secateur.core.measured import Comparison
from secateur.search.gauge import Finding, Gauge
from secateur.search.report import refusal, sentences

DROP, PEAK = Drop(points=1), PeakMemory("50%")


def gauge(budget: Budget) -> Gauge:
    case = digits_case()
    return Gauge(budget, case.model, evaluate=case.right, example=case.call)


def attempt(left: float, drop: float, peak: float, why: str = "") -> Attempt:
    margins = {repr(DROP): drop, repr(PEAK): peak}
    return Attempt("g", left, left, peak=1000, quality=0.9, margins=margins, why=why)


def said(quality: Comparison) -> str:
    winner = attempt(0.4, 0.1, 0.1)
    found = Finding(quality=quality, peak=500)
    lines = sentences(DROP & PEAK, gauge(DROP & PEAK), winner, [winner], found, quality, "macs")
    return "\n".join(lines)


def test_the_winner_and_its_data() -> None:
    text = said(Comparison(0.99, 0.985, 0.002, 225, "held out"))
    assert "1 network tried; the smallest that meets Drop(points=1.0) & PeakMemory('50%')" in text
    assert "keeps 40.0% of the MACs" in text
    assert len(text.splitlines()) == 1


def test_a_broken_promise_is_said() -> None:
    text = said(Comparison(0.99, 0.96, 0.002, 225, "held out"))
    assert "Drop(points=1.0) is not met on the samples held out: 0.03 ± 0.002 worse" in text
    assert "same data, whose standard error is not known" in said(Comparison(0.99, 0.985))
    assert "selected and reported on the same data:" in said(Comparison(0.99, 0.985, 0.1, 9))


def test_what_was_not_reached_names_the_best_of_each_goal() -> None:
    tried = [
        attempt(0.9, -2, -0.5, f"{DROP!r}: 0.03 worse, 0.01 allowed; {PEAK!r}: 9 kB at the peak"),
        attempt(0.4, -5, 0.1, f"{DROP!r}: 0.06 worse, 0.01 allowed"),
    ]
    error = refusal(DROP & PEAK, gauge(DROP & PEAK), tried, "macs")
    assert error.message == (
        "Drop(points=1.0) was not reached: the best is 0.03 worse, 0.01 allowed with 90.0% of the "
        "MACs left"
    )
    assert error.hint


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_goals_that_are_met_one_by_one_only(cost: str) -> None:
    tried = [attempt(0.9, 1, -0.5, "no"), attempt(0.4, -0.1, 0.1, "a little worse")]
    error = refusal(DROP & PEAK, gauge(DROP & PEAK), tried, cost)
    assert "though each part alone was: the closest network keeps 40.0%" in error.message
    assert "a little worse" in error.message
