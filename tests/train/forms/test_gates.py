"""Hard-concrete gates: their ends have mass, their gradient is autograd's, eval mode is quiet."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import nn
from training import batches, held, net, sgd, train

import secateur as sc
from secateur.train.forms import HardConcrete
from secateur.train.forms.gates import BETA, HIGH, LOW, stretch
from secateur.train.peers import Peers


def test_both_ends_have_mass() -> None:
    """As the paper's formula says, and not stretched wrongly: 0 and 1 are both drawn."""
    form = HardConcrete(start=0.0)
    item = held(nn.Linear(200, 100, bias=False))[0]
    item.latent = item.used.clone()
    form.begin(item)
    form.draw(item, torch.Generator().manual_seed(0))
    z = stretch(item.extra["drawn"])
    closed = torch.sigmoid(torch.tensor(BETA * log(-LOW / HIGH)))
    assert (z == 0).float().mean() == pytest.approx(float(closed), abs=0.01)
    assert (z == 1).float().mean() == pytest.approx(float(closed), abs=0.01)  # by symmetry


def test_the_gates_gradient_is_autograds() -> None:
    form = HardConcrete(penalty=0.3, start=0.5, rate=0.1)
    model = nn.Linear(8, 6, bias=False)
    item = held(model)[0]
    item.latent = item.used.clone()
    form.begin(item)
    form.draw(item, torch.Generator().manual_seed(0))
    u = torch.empty(6, 8).uniform_(1e-6, 1 - 1e-6, generator=torch.Generator().manual_seed(0))
    odds = torch.full((6, 8), 0.5, requires_grad=True)
    z = (((u.logit() + odds) / BETA).sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)
    incoming = torch.randn(6, 8)
    penalty = 0.3 * (odds - BETA * log(-LOW / HIGH)).sigmoid().sum()
    (slope,) = torch.autograd.grad((z * item.latent * incoming).sum() + penalty, odds)
    form.pull(item, incoming.clone(), Peers())
    torch.testing.assert_close(item.extra["first"], 0.1 * slope, rtol=1e-4, atol=1e-7)
    reference = nn.Parameter(torch.full((6, 8), 0.5))
    reference.grad = slope
    torch.optim.Adam([reference], lr=0.1).step()
    torch.testing.assert_close(item.extra["odds"], reference.detach(), rtol=1e-4, atol=1e-5)


def test_eval_mode_has_no_noise_and_training_goes_on_as_if_it_was_not_there() -> None:
    trained = []
    for looks in (False, True):
        model = net()
        optimizer = sgd(model, 0.01)
        session = sc.attach(model, optimizer, sc.presets.l0(penalty=1e-3))
        x, _ = next(batches(1, seed=4))
        for batch in batches(6):
            train(model, optimizer, iter([batch]))
            if looks:
                model.eval()
                quiet = model(x)
                assert torch.equal(quiet, model(x))
                used = model[3].weight.detach().clone()
                item = session._held[1]
                means = stretch(item.extra["odds"].sigmoid())
                torch.testing.assert_close(used, item.trained * means)
                model.train()
        trained.append([item.trained for item in session._held])
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_nonsense_is_refused() -> None:
    with pytest.raises(sc.SecateurError, match="penalty=-1"):
        HardConcrete(penalty=-1)
