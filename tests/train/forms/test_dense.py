"""Straight-through forms: the decay of SR-STE, the two thresholds of surgery, Top-KAST's sets."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training import batches, held, net, sgd, train

import secateur as sc
from secateur.train.forms import Dense, TopKAST
from secateur.train.peers import Peers


def test_sr_ste_pulls_removed_weights_to_zero() -> None:
    """W <- W - lr (g + decay (1 - M) W), from the paper's equation 9."""
    torch.manual_seed(0)
    model = nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()
    session = sc.attach(model, optimizer, sc.presets.sr_ste(2, 4, decay=0.3, every=100))
    mask = session.masks["weight"].clone()
    assert torch.equal(mask.view(4, 2, 4).sum(2), torch.full((4, 2), 2))
    gradient = torch.randn(4, 8)
    model.weight.grad = gradient.clone()
    optimizer.step()
    expected = before - 0.5 * (gradient + 0.3 * ~mask * before)
    item = session._held[0]
    assert item.latent is not None
    torch.testing.assert_close(item.latent, expected)
    torch.testing.assert_close(model.weight.detach(), expected * mask)


def test_surgery_leaves_what_is_near_the_threshold() -> None:
    model = nn.Linear(10, 1, bias=False)
    item = held(model)[0]
    item.latent = torch.tensor([[0.1, 0.5, 0.9, 0.96, 1.0, 1.04, 1.2, 2.0, 3.0, 4.0]])
    old = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 1, 0, 1]]).bool()
    item.mask = item.latent >= 1.0
    Dense(slack=0.05).renew(item, old, False, Peers())
    assert item.mask.int().tolist() == [[0, 0, 0, 1, 0, 0, 1, 1, 1, 1]]
    item.mask = item.latent >= 1.0
    Dense(slack=0.05).renew(item, old, True, Peers())
    assert torch.equal(item.mask, item.latent >= 1.0)


def test_dpf_lets_weights_return() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.presets.dpf(0.9, end=8, every=2))
    train(model, optimizer, batches(8))
    assert sum(event.get("grown", 0) for event in session.events) > 0


def test_top_kast_trains_the_wider_set_only() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recipe = sc.presets.topkast(0.8, wider=0.1, every=100, allocate="uniform")
    session = sc.attach(model, optimizer, recipe)
    before = [(item.trained.clone(), item.extra["wider"].clone()) for item in session._held]
    train(model, optimizer, batches(1))
    for item, (old, wider) in zip(session._held, before, strict=True):
        assert int(item.mask.sum()) == int(item.total * 0.2 + 1e-9)
        assert int(wider.sum()) == int(item.total * 0.3 + 1e-9)
        assert (wider | ~item.mask).all()
        assert torch.equal(item.trained[~wider], old[~wider])
        assert not torch.equal(item.trained[wider & ~item.mask], old[wider & ~item.mask])


def test_the_exploration_loss_is_the_papers() -> None:
    """decay w on used weights, decay / density w on merely trained ones: equation 3."""
    form = TopKAST(wider=0.2, decay=0.1)
    item = held(nn.Linear(10, 1, bias=False))[0]
    item.latent = torch.arange(1.0, 11.0)[None]
    form.begin(item)
    item.mask = item.latent > 8
    item.extra["wider"] = item.latent > 6
    form.renew(item, item.mask, True, Peers())
    gradient = torch.zeros(1, 10)
    form.pull(item, gradient, Peers())
    expected = [0.0] * 6 + [0.1 / 0.2 * 7, 0.1 / 0.2 * 8, 0.9, 1.0]
    torch.testing.assert_close(gradient, torch.tensor([expected]))


def test_nonsense_is_refused() -> None:
    for make in (lambda: Dense(decay=-1), lambda: Dense(slack=1), lambda: TopKAST(wider=0)):
        with pytest.raises(sc.SecateurError, match="expected"):
            make()
