"""Promises: exact tails, and how often a promise is broken."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from secateur.adapt.promise import (
    binomial_tail,
    check_promise,
    last_safe,
    least_samples,
    parted,
)
from secateur.core.errors import InputError, RecipeError


@pytest.mark.parametrize("samples", [1, 17, 400, 5000])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.3])
def test_tails_are_those_of_scipy(samples: int, rate: float) -> None:
    for failures in {0, 1, samples // 100, samples // 3, samples - 1}:
        wanted = binom.cdf(failures, samples, rate)
        assert binomial_tail(failures, samples, rate) == pytest.approx(wanted, rel=1e-8, abs=1e-14)


def test_the_ends_of_the_tail() -> None:
    assert binomial_tail(5, 5, 0.5) == 1
    assert binomial_tail(0, 5, 0.0) == 1
    assert binomial_tail(0, 5, 1.0) == 0


def test_a_sequence_ends_at_the_first_that_fails() -> None:
    assert last_safe([0, 900, 0], 1000, 0.01, 0.05) == 0
    assert last_safe([900, 0, 0], 1000, 0.01, 0.05) == -1
    assert last_safe([], 1000, 0.01, 0.05) == -1


def test_broken_promises_are_as_rare_as_promised() -> None:
    """Settings of rising risk, counted on drawn samples: the chosen one is rarely too risky."""
    rng, rate, delta, samples = np.random.default_rng(0), 0.05, 0.1, 300
    risks = np.linspace(0.0, 0.1, 21)
    broken = 0
    for _ in range(2000):
        draws = rng.random(samples)  # the same samples for all settings, as in use
        counts = [(draws < risk).sum() for risk in risks]
        chosen = last_safe(counts, samples, rate, delta)
        broken += chosen >= 0 and risks[chosen] > rate
    assert broken <= 2000 * delta + 3 * (2000 * delta * (1 - delta)) ** 0.5
    assert broken > 0  # the promise is used, not avoided


def test_the_least_number_of_samples() -> None:
    for rate, delta in ((0.01, 0.05), (0.1, 0.01), (0.5, 0.5)):
        least = least_samples(rate, delta)
        assert binomial_tail(0, least, rate) <= delta < binomial_tail(0, least - 1, rate)


@pytest.mark.parametrize(("rate", "delta"), [(0, 0.1), (1, 0.1), (0.1, 0), (0.1, 1)])
def test_senseless_promises_are_refused(rate: float, delta: float) -> None:
    with pytest.raises(RecipeError):
        last_safe([0], 10, rate, delta)


def test_every_part_of_the_data_has_one_use() -> None:
    model, x = nn.Linear(1, 1), torch.arange(100.0)[:, None]
    batches = [x[k : k + 10] for k in range(0, 100, 10)]
    fit, tuning, testing = parted(model, batches, 100, "tests need")
    seen = [torch.cat([call.args[0] for call in part]).flatten() for part in (fit, tuning, testing)]
    assert torch.cat(seen).sort().values.tolist() == x.flatten().tolist()
    assert len(seen[1]) < len(seen[0]) and len(seen[1]) < len(seen[2])
    with pytest.raises(InputError, match="the data splits into 1 part, and tests need 5"):
        parted(model, x[:1], 100, "tests need")


@pytest.mark.parametrize(("guarantee", "delta"), [(0, 0.1), (1, 0.1), (0.9, 0), (0.9, 1)])
def test_promises_that_make_no_sense_are_refused(guarantee: float, delta: float) -> None:
    with pytest.raises(RecipeError, match="both lie between 0 and 1"):
        check_promise(guarantee, delta)
