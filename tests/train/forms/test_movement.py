"""Movement: scores gather what the paper says, masks are the best of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training import batches, net, sgd, train

import secateur as sc
from secateur.train.forms import SoftMovement


def test_scores_are_sums_of_gradient_times_weight() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = sc.attach(model, optimizer, sc.presets.movement(0.5, end=3, every=3, rate=2.0))
    latent, total = model.weight.detach().clone(), torch.zeros(4, 6)
    for _ in range(3):
        gradient = torch.randn(4, 6)
        model.weight.grad = gradient.clone()
        optimizer.step()
        total -= 2.0 * gradient * latent
        latent -= 0.1 * gradient
    expected = torch.zeros(24, dtype=torch.bool)
    expected[total.flatten().topk(12).indices] = True
    assert torch.equal(session.masks["weight"].flatten(), expected)
    torch.testing.assert_close(model.weight.detach(), latent * expected.view(4, 6))


def test_removed_weights_are_not_trained_but_scored() -> None:
    model = nn.Linear(6, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = sc.attach(model, optimizer, sc.presets.movement(0.5, end=1, every=1))
    model.weight.grad = torch.randn(4, 6)
    optimizer.step()
    item = session._held[0]
    before, score = item.trained.clone(), item.extra["score"].clone()
    model.weight.grad = torch.randn(4, 6)
    optimizer.step()
    gone = ~item.mask
    assert torch.equal(item.trained[gone], before[gone])
    assert not torch.equal(item.extra["score"][gone], score[gone])


def test_the_soft_threshold_is_on_the_sigmoid() -> None:
    model = net()
    optimizer = sgd(model, 0.05)
    session = sc.attach(model, optimizer, sc.presets.soft_movement(penalty=0.5, every=5))
    train(model, optimizer, batches(30))
    for item in session._held:
        assert torch.equal(item.mask, item.extra["score"].sigmoid() > 0.1)
    assert 0 < session.sparsity < 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(sc.SecateurError, match="threshold"):
        SoftMovement(threshold=0.5)
