"""Budgets: what they accept, what they refuse, and what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.budget import (
    Budget,
    Bytes,
    Drop,
    Latency,
    MACs,
    Params,
    PeakMemory,
    Quality,
    Sparsity,
    counted,
    join,
    measured,
    parse_budget,
)
from secateur.core.errors import RecipeError

CEILINGS = st.sampled_from([Params, MACs, Bytes])
LIMITS = st.integers(1, 10**15) | st.integers(1, 10000).map(lambda n: f"{n / 100}%")
COUNTS = st.none() | st.integers(1, 512)
CONFIDENCES = st.sampled_from([0.5, 0.84, 0.975])
LOWER = st.sampled_from([None, True, False])
BUDGETS = (
    st.builds(lambda kind, limit: kind(limit), CEILINGS | st.just(PeakMemory), LIMITS)
    | st.builds(Sparsity, st.floats(0, 0.999))
    | st.builds(
        lambda p, b, t: Latency(f"{p / 100}%", batch=b, threads=t),
        st.integers(1, 10000),
        COUNTS,
        COUNTS,
    )
    | st.builds(lambda ms, b: Latency(ms=ms, batch=b), st.floats(1e-3, 1e6), COUNTS)
    | st.builds(
        lambda a, c: Drop(a, scale=100, lower_is_better=True, confidence=c),
        st.floats(0, 99),
        CONFIDENCES,
    )
    | st.builds(lambda a, low: Drop(relative=a, lower_is_better=low), st.floats(0, 0.99), LOWER)
    | st.builds(lambda a, low: Drop(absolute=a, lower_is_better=low), st.floats(0, 1e9), LOWER)
    | st.builds(lambda a: Drop(nats=a), st.floats(0, 1e3))
    | st.builds(lambda a, c: Quality(at_least=a, confidence=c), st.floats(-1e9, 1e9), CONFIDENCES)
    | st.builds(lambda a: Quality(at_most=a), st.floats(-1e9, 1e9))
)
JOINED = st.lists(BUDGETS, min_size=1, max_size=3)


@settings(deadline=None)
@given(JOINED)
def test_repr_and_text_round_trip(budgets: list[Budget]) -> None:
    budget = join(*budgets)
    kinds = (Bytes, Drop, Latency, MACs, Params, PeakMemory, Quality, Sparsity)
    names = {kind.__name__: kind for kind in kinds}
    assert eval(repr(budget), names) == budget
    assert parse_budget(repr(budget)) == budget
    assert budget.parts == tuple(budgets)
    assert sorted(map(repr, counted(budget) + measured(budget))) == sorted(map(repr, budgets))


def test_hints_say_what_was_meant() -> None:
    with pytest.raises(RecipeError, match=r"did you mean Sparsity\(0.5\)"):
        Sparsity(50)
    with pytest.raises(RecipeError, match=r"Params\('50%'\)"):
        Params(0.5)
    with pytest.raises(RecipeError, match="did you mean params"):
        parse_budget("param 50%")
    with pytest.raises(RecipeError, match="GiB"):
        Bytes("3 apples")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("macs 50% & params 1e6", MACs("50%") & Params(1_000_000)),
        ("macs=50%", MACs("50%")),
        ("MACs <= 2.5G", MACs(2_500_000_000)),
        ("bytes: 2GiB", Bytes(2**31)),
        ("sparsity .5", Sparsity(0.5)),
        ("sparsity 50%&macs 1", Sparsity(0.5) & MACs(1)),
        ("drop 1", Drop(points=1)),
        ("drop 1.5 points", Drop(points=1.5)),
        ("drop 0.5%", Drop(relative=0.005)),
        ("drop 0.05 nats", Drop(nats=0.05)),
        ("drop <= 2 scale=100 lower_is_better=true", Drop(2, scale=100, lower_is_better=True)),
        ("drop absolute=3, confidence=0.975", Drop(absolute=3, confidence=0.975)),
        ("drop 1 & latency 60%", Drop(points=1) & Latency("60%")),
        ("latency 4ms", Latency(ms=4)),
        ("latency: 250 us batch=1 threads=2", Latency(ms=0.25, batch=1, threads=2)),
        ("latency ms=4", Latency(ms=4)),
        ("Latency( '60%' , batch = 1)", Latency("60%", batch=1)),
        ("quality >= 0.9", Quality(at_least=0.9)),
        ("quality <= 2.1 confidence=0.5", Quality(at_most=2.1, confidence=0.5)),
        ("quality at_most=2.1", Quality(at_most=2.1)),
        ("memory 2MB & peak_memory 50%", PeakMemory("2MB") & PeakMemory("50%")),
    ],
)
def test_parse(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    ["", "macs", "&", "macs 50% &", "50%", "macs 50% 60%x", "macs ((1", "macs >= 50%",
     "quality 0.9", "quality", "quality >= x", "drop", "drop few", "drop 1 parsec", "drop -1",
     "latency 60", "latency 4 h", "latency 60% btch=1", "latency 60% batch=0", "macs 5 batch=1",
     "drop 1 points=1", "latency 60% ms=4", "latency()", "__import__('os')", "drop 100"],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_budget(text)
