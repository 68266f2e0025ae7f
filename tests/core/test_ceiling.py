"""Budgets that are counted: what they accept, what they refuse, and what they mean."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.ceiling import Bytes, MACs, Params, Sparsity
from secateur.core.errors import RecipeError


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 10**6))
def test_sparsity_removes_at_least_its_share_and_less_than_one_more(per: int, n: int) -> None:
    kept = Sparsity(per / 1000).kept(n)
    share = Fraction(per, 1000)
    assert n - kept >= share * n > n - kept - 1


@settings(deadline=None)
@given(st.integers(1, 10000), st.integers(0, 10**15))
def test_a_share_is_exact(hundredths: int, original: int) -> None:
    limit = f"{hundredths // 100}.{hundredths % 100:02}%"
    assert MACs(limit).ceiling(original) == hundredths * original // 10000


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        (Params(1e6), 1_000_000),
        (Params("1.5M"), 1_500_000),
        (Params("1_000"), 1000),
        (MACs("1.8G"), 1_800_000_000),
        (MACs("1e6"), 1_000_000),
        (MACs(np.int64(7)), 7),
        (MACs(np.float32(8.0)), 8),
        (Bytes("1.5MB"), 1_500_000),
        (Bytes("2GiB"), 2 * 2**30),
        (Bytes(" 3 kib "), 3072),
        (Bytes("100B"), 100),
        (Bytes("50 %"), "50%"),
        (Bytes("12.50%"), "12.5%"),
        (Bytes("100%"), "100%"),
    ],
)
def test_limits(budget: Any, limit: int | str) -> None:
    assert budget.limit == limit


@pytest.mark.parametrize("kind", [Params, MACs, Bytes])
@pytest.mark.parametrize(
    "limit",
    [
        float("nan"), float("inf"), -1, 0, -0.0, True, False, None, [1], "", "abc", "50 percent",
        "101%", "-1%", "0%", "nan%", "inf%", "%", "1.5Q", "-3M", b"5", 1 + 0j,
    ],
)  # fmt: skip
def test_ceilings_refuse(kind: type, limit: Any) -> None:
    with pytest.raises(RecipeError):
        kind(limit)


@pytest.mark.parametrize(
    "fraction",
    [float("nan"), float("inf"), -0.1, 1, 1.0, 50, 1000, True, None, "half", "100%", "101%", "0.5"],
)
def test_sparsity_refuses(fraction: Any) -> None:
    with pytest.raises(RecipeError):
        Sparsity(fraction)


def test_amounts_are_shown_in_the_unit_of_the_budget() -> None:
    assert MACs("10%").show(1234, 10000) == "12.34% of the macs"
    assert MACs(10).show(123456, 10**6) == "123,456 macs"


def test_only_budgets_join() -> None:
    with pytest.raises(TypeError):
        Sparsity(0.5) & 3  # type: ignore[operator]
