"""WoodFisher's blocks, scores and updates against the recursion and the full inverse."""

from __future__ import annotations

import torch
from torch import nn

from secateur.core.weight_site import WeightSite
from secateur.measure.stats import Gather
from secateur.score.criterion import Facts
from secateur.score.weight_run import resolve_weight, weight_scores
from secateur.score.woodfisher import DAMP, damped, in_blocks, outer, saliency, updated
from secateur.units import weight_sites

SITE = WeightSite("w", (2, 5))


def gradients(count: int = 30) -> torch.Tensor:
    return torch.randn(count, 2, 5, dtype=torch.float64)


def blocks(grads: torch.Tensor, size: int) -> torch.Tensor:
    return torch.stack([outer(SITE, g, size) for g in grads]).mean(0)


def test_blocks_lie_on_the_diagonal_of_the_whole() -> None:
    grads = gradients()
    flat = grads.reshape(30, 10)
    whole = flat.T @ flat / 30
    found = blocks(grads, 4)
    assert found.shape == (3, 4, 4)
    for k in range(2):
        assert torch.allclose(found[k], whole[4 * k : 4 * k + 4, 4 * k : 4 * k + 4])
    assert not found[2, 2:].any()  # filled up


def test_the_inverse_is_that_of_the_paper_s_recursion() -> None:
    grads = gradients()
    found = blocks(grads, 10)
    lam = float(DAMP * found.diagonal(dim1=1, dim2=2).mean() + 1e-12)
    inverse = torch.eye(10, dtype=torch.float64) / lam
    for g in grads.reshape(30, 10):
        moved = inverse @ g
        inverse = inverse - torch.outer(moved, moved) / (30 + g @ moved)
    assert torch.allclose(torch.linalg.inv(damped(found))[0], inverse, atol=1e-8 / lam)
    w = torch.randn(2, 5, dtype=torch.float64)
    expected = (w.flatten().square() / (2 * inverse.diagonal())).reshape(2, 5)
    assert torch.allclose(saliency(w, found), expected, rtol=1e-6)


def test_the_update_is_that_of_optimal_brain_surgery() -> None:
    raw, w = blocks(gradients(), 10), torch.randn(10, dtype=torch.float64)
    keep = torch.ones(10, dtype=torch.bool)
    keep[[2, 3, 7]] = False
    gone = ~keep
    found = updated(w.reshape(2, 5), raw, keep.reshape(2, 5)).flatten()
    stiff = damped(raw)[0]
    inverse = torch.linalg.inv(stiff)
    delta = -inverse[:, gone] @ torch.linalg.solve(inverse[gone][:, gone], w[gone])
    assert torch.allclose(found, w + delta, atol=1e-8)
    assert not found[gone].any()


def test_blocks_are_gathered_from_single_samples() -> None:
    net = nn.Linear(3, 2).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 2, (6,))
    gather = Gather(net, None, [(x[:4], y[:4]), (x[4:], y[4:])])
    scored = weight_scores(resolve_weight("obs"), weight_sites(net), Facts.of(net), gather)
    found = scored.facts.get("fisher_blocks")["weight"]
    total = torch.zeros(6, 6, dtype=torch.float64)
    for k in range(6):
        loss = nn.functional.cross_entropy(net(x[k : k + 1]), y[k : k + 1])
        g = torch.autograd.grad(loss, net.weight)[0].flatten()
        total += torch.outer(g, g) / 6
    assert torch.allclose(found[0, :6, :6], total)
    assert scored["weight"].shape == (2, 3)


def test_rows_are_filled_up() -> None:
    assert in_blocks(torch.ones(2, 3), 4).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
