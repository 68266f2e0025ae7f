"""Bets on exchangeability: how often they win by chance, and how soon where they should."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import kstest

from secateur.adapt.drift import Bet, Normal


def test_ranks_are_uniform() -> None:
    rng = np.random.default_rng(0)
    bet = Bet(rng.normal(size=20).tolist())
    ranks = [bet.see(float(score)) for score in rng.normal(size=3000)]
    assert kstest(ranks, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]) < 0.06


def test_ties_are_broken_at_random() -> None:
    bet = Bet([1.0] * 10)
    ranks = [bet.see(1.0) for _ in range(2000)]
    assert kstest(ranks, "uniform").pvalue > 0.01


@pytest.mark.parametrize("alarm", [0.1, 0.02])
def test_false_alarms_are_as_rare_as_promised(alarm: float) -> None:
    rng, alarms, tries = np.random.default_rng(1), 0, 300
    for seed in range(tries):
        bet, highest = Bet(rng.exponential(size=30).tolist(), seed), 0.0
        for score in rng.exponential(size=300):
            bet.see(float(score))
            highest = max(highest, bet.capital)
        alarms += highest >= 1 / alarm
    assert alarms <= tries * alarm + 3 * (tries * alarm * (1 - alarm)) ** 0.5


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_changes_either_way_are_noticed_also_late(shift: float) -> None:
    rng = np.random.default_rng(2)
    bet = Bet(rng.normal(size=200).tolist())
    for score in rng.normal(size=2000):
        bet.see(float(score))
    assert bet.capital < 100
    delay = 0
    while bet.capital < 100:
        bet.see(float(rng.normal() + shift))
        delay += 1
    assert delay < 60


def test_distances_are_those_of_scipy() -> None:
    x = torch.randn(400, 4) @ torch.randn(4, 4)
    usual, new = Normal(x), torch.randn(6, 4)
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    covariance = 0.9 * np.cov(z.numpy().T, bias=True) + 0.1 * np.eye(4)
    inverse = np.linalg.inv(covariance)
    for score, row in zip(usual.scores(new), usual.standard(new), strict=True):
        assert float(score) == pytest.approx(mahalanobis(row, np.zeros(4), inverse) ** 2)


def test_constant_features_and_values_that_are_no_numbers() -> None:
    usual = Normal(torch.cat([torch.randn(50, 2), torch.ones(50, 1)], 1))
    new = torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, float("nan")]])
    scores = usual.scores(new).tolist()
    assert scores[0] < 10 < scores[1] < scores[2] == float("inf")
