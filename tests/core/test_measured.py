"""Measured numbers, proofs and reasons, in words."""

from __future__ import annotations

from secateur.core.measured import (
    Comparison,
    Frozen,
    Latency,
    Measured,
    Verification,
    frozen_lines,
)
from secateur.core.plan import Reason


def test_latency_says_how_it_was_measured() -> None:
    latency = Latency(12.34, 0.5, 40, 2)
    assert str(latency) == "12.3 ms (spread 0.5 ms)"
    assert latency.conditions == "median of 40 runs, cpu, 2 threads"
    assert Latency(1, 0, 1, 8, "Some GPU", True).conditions == "median of 1 run, Some GPU, compiled"


def test_the_error_of_a_median_falls_with_the_runs() -> None:
    assert Latency(1, 0.2, 400, 1).error_ms < Latency(1, 0.2, 4, 1).error_ms / 9


def test_measured_leaves_out_what_was_not_measured() -> None:
    assert Measured(1000, None, 4000).summary == "1,000 parameters · 4.00 kB"
    assert "2.00 MMACs" in Measured(1, 2_000_000, 4, Latency(1, 0, 1, 1)).summary
    assert Measured(1, 2, 3).to_dict()["latency"] is None


def test_verification_lines() -> None:
    good = Verification(True, True, 1e-7, 1e-4, "masked original", "a norm runs over it")
    assert [line.tone for line in good.lines] == ["good", "quiet"]
    bad = Verification(False, False, 0.0, 0.0, "none", "no example was given")
    assert [line.text for line in bad.lines] == ["not verified: no example was given"]


def test_reasons_are_grouped_and_counted() -> None:
    reasons = [
        Reason("b", "", "x.py:1"),
        Reason("a"),
        Reason("b", "", "x.py:1"),
        Reason("b", "", "y"),
    ]
    groups = Frozen.group(reasons)
    assert groups == (Frozen("b", 3, ("x.py:1", "y")), Frozen("a", 1))
    assert Frozen.group([*groups, Reason("a", "", "z")])[1] == Frozen("a", 2, ("z",))


def test_long_lists_are_cut_short() -> None:
    many = [Frozen(f"reason {i}") for i in range(9)]
    lines = frozen_lines(many, "axis")
    assert lines[0].text == "frozen: 9 axes"
    assert lines[-1].text == "  and 3 more reasons"
    assert str(Frozen("r", 4, ("a", "b", "c", "d"))) == "4 x r (a, b, c, ...)"
    assert frozen_lines((), "axis") == ()


def test_a_comparison_says_whose_samples_and_which_way() -> None:
    assert str(Comparison(0.5, 0.25)) == "0.5 -> 0.25 (-0.25)"
    assert str(Comparison(0.5, 0.25, 0.1, 1)) == "0.5 -> 0.25 (-0.25 ± 0.1), on 1 sample"
    selected = str(Comparison(2.0, 2.5, data="selection"))
    assert selected == "2 -> 2.5 (+0.5), on samples that were selected on"
    assert Comparison(2.0, 2.5).worse(lower_is_better=True) == 0.5
    assert Comparison(2.0, 2.5).worse() == -0.5
