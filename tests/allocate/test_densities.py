"""Densities: the totals are met, and ERK agrees with a second implementation."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

import secateur as sc
from secateur.allocate.densities import densities
from secateur.core.weight_site import WeightSite

SITES = [
    WeightSite("conv", (16, 3, 3, 3)), WeightSite("wide", (64, 16, 3, 3)),
    WeightSite("fc", (300, 784)), WeightSite("head", (10, 300)),
]  # fmt: skip


def total(found: dict[str, float]) -> float:
    return sum(found[s.name] * s.n for s in SITES) / sum(s.n for s in SITES)


@pytest.mark.parametrize("name", ["uniform", "erk", "er"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_totals(name: str, sparsity: float) -> None:
    found = densities(name, SITES, sparsity)
    assert total(found) == pytest.approx(1 - sparsity, abs=1e-9)
    assert all(0 < density <= 1 for density in found.values())


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_erk_is_the_papers(sparsity: float) -> None:
    """By bisection on the scale, instead of making layers whole one after the other."""
    raw = np.array([sum(s.shape) / prod(s.shape) for s in SITES])
    sizes = np.array([s.n for s in SITES])
    low, high = 0.0, 1e9
    for _ in range(300):
        scale = (low + high) / 2
        kept = (np.minimum(1, scale * raw) * sizes).sum()
        low, high = (scale, high) if kept < (1 - sparsity) * sizes.sum() else (low, scale)
    found = densities("erk", SITES, sparsity)
    np.testing.assert_allclose([found[s.name] for s in SITES], np.minimum(1, low * raw), rtol=1e-9)


def test_given_ones() -> None:
    given = {site.name: 0.5 for site in SITES}
    assert densities(given, SITES, 0.9) == given
    with pytest.raises(sc.SecateurError, match="no weight in scope"):
        densities({**given, "hed": 0.5}, SITES, 0.9)
    with pytest.raises(sc.SecateurError, match="density of conv is None"):
        densities({"fc": 0.5}, SITES, 0.9)
    with pytest.raises(sc.SecateurError, match="density of fc is 0"):
        densities({**given, "fc": 0}, SITES, 0.9)


def test_unknown() -> None:
    with pytest.raises(sc.SecateurError, match="did you mean erk"):
        densities("erkk", SITES, 0.9)
