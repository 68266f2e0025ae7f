"""Soft thresholds: STR's own gradient against autograd, PDP's border."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training import batches, held, net, sgd, train

import secateur as sc
from secateur.train.forms import SoftThreshold, SoftTopK
from secateur.train.peers import Peers


def test_the_threshold_follows_its_gradient() -> None:
    form = SoftThreshold(start=-1.0, decay=0.1)
    model = nn.Linear(8, 6, bias=False)
    item = held(model, torch.optim.SGD(model.parameters(), lr=0.25))[0]
    item.latent = item.used.clone()
    form.begin(item)
    w, s = item.latent.clone(), torch.tensor(-1.0, requires_grad=True)
    incoming = torch.randn(6, 8)
    used = w.sign() * (w.abs() - s.sigmoid()).relu()
    (slope,) = torch.autograd.grad(used, s, incoming)
    form.pull(item, incoming, Peers())
    expected = -1.0 - 0.25 * (slope + 0.1 * -1.0)
    torch.testing.assert_close(item.extra["s"], expected)


def test_thresholds_rest_when_the_budget_is_reached() -> None:
    model = net()
    optimizer = sgd(model, 0.02)
    session = sc.attach(model, optimizer, sc.presets.str_(0.5, start=-5, decay=1.0, every=1))
    found = []
    train(model, optimizer, batches(120), lambda: found.append(session._held[1].extra["s"].item()))
    assert session.sparsity >= 0.5
    rests = next(k for k, e in enumerate(session.events) if e["sparsity"] >= 0.5)
    assert len(set(found[rests:])) == 1 and len(set(found[:rests])) > 3


def test_the_border_lies_between_squares() -> None:
    form = SoftTopK()
    item = held(nn.Linear(4, 1, bias=False))[0]
    item.latent = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    form.begin(item)
    out = torch.empty(1, 4)
    form.write(item, out)
    assert torch.equal(out, item.latent)  # everything passes at first
    item.mask = item.latent.abs() > 2.5
    form.renew(item, item.mask, False, Peers())
    assert float(item.extra["border"]) == pytest.approx((4 + 9) / 2)


def test_nonsense_is_refused() -> None:
    with pytest.raises(sc.SecateurError, match="temperature=0"):
        SoftTopK(temperature=0)
