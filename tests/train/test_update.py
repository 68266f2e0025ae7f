"""Updates: noise, the cosine of what is exchanged, and scores of what is gone."""

from __future__ import annotations

import pytest
import torch
from training import held, net

import secateur as sc
from secateur.train.choose import LOWEST
from secateur.train.peers import Peers
from secateur.train.settings import Settings
from secateur.train.update import Update


def update(step: int = 4, **fields: object) -> Update:
    items = held(net())
    recipe = sc.Recipe(**{"budget": sc.Sparsity(0.5), **fields})  # type: ignore[arg-type]
    return Update(Settings.of(recipe, items, Peers()), items, step, 1.0)


def test_noise_is_a_function_of_seed_step_and_place() -> None:
    one, same = update(), update()
    a = one.noise(one.held[1])
    assert torch.equal(a, same.noise(same.held[1])) and torch.equal(a, one.noise(one.held[1]))
    for other in (update(seed=1), update(step=5)):
        assert not torch.equal(a, other.noise(other.held[1]))
    assert a.min() >= 0 and a.max() < 1 and a.mean() == pytest.approx(0.5, abs=0.02)


def test_what_is_exchanged_falls_along_a_cosine() -> None:
    schedule = sc.Constant(every=10, end=100)
    fields = {"grow": "random", "schedule": schedule, "drop": 0.4}
    found = [update(step, **fields).exchanged for step in (0, 50, 100)]
    assert found == pytest.approx([0.4, 0.2, 0.0])
    assert update(50, grow="random", schedule=sc.Constant(10)).exchanged == 0.3


def test_what_is_gone_scores_lowest_in_the_hard_form() -> None:
    one = update()
    item = one.held[1]
    item.mask = torch.arange(len(item.used))[:, None].expand_as(item.used) > 0
    assert (one.score(item)[0] == LOWEST).all() and (one.score(item)[1:] >= 0).all()


def test_nothing_at_the_beginning() -> None:
    one = update()
    one.part = 0.0
    assert all(mask.all() for mask in one.run())


def test_a_criterion_of_the_user_sees_gradients_it_needs() -> None:
    from secateur.score.weight import WeightCriterion

    seen = []

    def mine(site, facts):  # type: ignore[no-untyped-def]
        seen.append(facts.gradients[site.name].shape)
        return site.matrix(facts.tensors[site.name]).abs()

    one = update(criterion=WeightCriterion("mine", mine, frozenset({"gradients"})))
    for item in one.held:
        item.parameter.grad = torch.ones_like(item.parameter)
    one.run()
    assert set(seen) == {item.mask.shape for item in one.held}
