"""Criteria for single weights that need weights and gradients only."""

from __future__ import annotations

import pytest
import torch

from secateur.core.errors import RecipeError
from secateur.core.matrix import Matrix
from secateur.core.weight_site import WeightSite
from secateur.score.criterion import Facts
from secateur.score.weight import (
    gradient_of,
    lamp,
    lamp_of,
    magnitude,
    random,
    taylor,
    weight_criteria,
    weight_criterion,
)

SITE = WeightSite("w", (2, 3))
FLIPPED = WeightSite("w", (3, 2), Matrix("flipped"))


def test_scores_are_matrices_whatever_the_layer() -> None:
    weight = torch.randn(3, 2)
    facts = Facts({"w": weight}, gradients={"w": weight})
    assert torch.equal(magnitude(FLIPPED, facts), weight.T.abs())
    assert torch.equal(taylor(FLIPPED, facts), weight.T.square().square())


def test_half_precision_is_scored_in_single() -> None:
    facts = Facts({"w": torch.full((2, 3), 300.0, dtype=torch.float16)})
    assert torch.isfinite(lamp(SITE, facts)).all()
    assert magnitude(SITE, facts).dtype == torch.float32


def test_lamp_is_the_paper_s_ratio() -> None:
    weight = torch.randn(2, 3)
    squares = weight.flatten().square()
    expected = [float(w / squares[squares >= w].sum()) for w in squares]
    found = lamp(SITE, Facts({"w": weight})).flatten().tolist()
    assert found == pytest.approx(expected, rel=1e-5)
    assert lamp_of(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


def test_random_comes_from_the_seed_and_the_name() -> None:
    one = Facts({"w": torch.zeros(2, 3), "v": torch.zeros(2, 3)})
    state = torch.random.get_rng_state()
    first = random(SITE, one)
    assert torch.equal(first, random(SITE, one))
    assert not torch.equal(first, random(WeightSite("v", (2, 3)), one))
    assert not torch.equal(first, random(SITE, Facts(one.tensors, seed=1)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_weight_without_gradient_scores_nothing() -> None:
    facts = Facts({"w": torch.ones(2, 3)}, gradients={})
    assert not taylor(SITE, facts).any() and not gradient_of(SITE, facts, "gradients").any()


def test_registered_under_every_name_and_never_twice() -> None:
    assert weight_criteria.get("l1") is magnitude and magnitude.__doc__
    with pytest.raises(RecipeError, match="already"):
        weight_criterion("magnitude")(lambda site, facts: facts.tensors[site.name])
    with pytest.raises(RecipeError, match="no criterion for weights"):
        weight_criteria.get("magnitud")
