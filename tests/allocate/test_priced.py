"""Densities under a limit of time, against trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from secateur.allocate.priced import Choices, priced
from secateur.core.errors import InfeasibleBudget


def problem(seed: int, n: int = 4) -> dict[str, Choices]:
    draw = np.random.default_rng(seed)
    levels = np.array([0.1, 0.25, 0.5, 0.7, 1.0])
    found = {}
    for k in range(n):
        ms = np.sort(draw.uniform(0.1, 3.0, 5))
        errors = np.sort(draw.uniform(0.0, 1.0, 5))[::-1] * levels[::-1]
        found[str(k)] = Choices.of(levels, ms, [*errors[:-1], 0.0])
    return found


def total(choices: dict[str, Choices], picks: dict[str, float], what: str) -> float:
    return sum(
        float(getattr(c, what)[int(np.flatnonzero(c.densities == picks[name])[0])])
        for name, c in choices.items()
    )


@pytest.mark.parametrize("seed", range(20))
def test_near_the_best_of_all(seed: int) -> None:
    choices = problem(seed)
    least = sum(c.ms.min() for c in choices.values())
    most = sum(c.ms.max() for c in choices.values())
    limit = least + 0.4 * (most - least)
    found = priced(choices, limit)
    assert total(choices, found, "ms") <= limit + 1e-9
    best = np.inf
    for picks in itertools.product(range(5), repeat=len(choices)):
        pairs = list(zip(choices.values(), picks, strict=True))
        if sum(c.ms[k] for c, k in pairs) <= limit:
            best = min(best, sum(c.errors[k] for c, k in pairs))
    assert total(choices, found, "errors") <= 1.5 * best + 0.15


def test_all_stays_where_there_is_time() -> None:
    choices = problem(0)
    assert set(priced(choices, 1e3).values()) == {1.0}


def test_too_little_time() -> None:
    with pytest.raises(InfeasibleBudget, match="fewest weights"):
        priced(problem(0), 0.01)


def test_noise_is_made_plausible() -> None:
    found = Choices.of([0.1, 0.5, 1.0], [1.2, 1.0, 3.0], [0.1, np.nan, 0.0])
    assert found.ms.tolist() == [1.0, 1.0, 3.0]
    assert found.errors.tolist() == [1e30, 1e30, 0.0]
