"""Heads: regression against an independent solver, confidences, thresholds."""

import numpy as np
import pytest
import torch

from secateur.adapt.heads import (
    Head,
    _ridge,
    confidence,
    confidence_of_one,
    fit_finest,
    fit_head,
    look,
    pool,
    thresholds,
)


def test_a_linear_truth_is_found() -> None:
    x = torch.randn(200, 6) * torch.tensor([1, 10, 0.1, 1, 1, 1]) + 3
    truth = torch.randn(3, 6)
    head = fit_head(x, x @ truth.mT + torch.tensor([1.0, 2.0, 3.0]))
    assert isinstance(head, Head)
    assert torch.allclose(head(x), x @ truth.mT + torch.tensor([1.0, 2.0, 3.0]), atol=0.05)
    found = np.linalg.lstsq(np.c_[x.numpy(), np.ones(200)], (x @ truth.mT).numpy(), rcond=None)[0]
    assert np.allclose(head.linear.weight.numpy(), found[:-1].T, atol=0.05)


def test_fewer_samples_than_features() -> None:
    x, y = torch.randn(12, 30).double(), torch.randn(12, 2).double()
    ((weight, bias),) = _ridge(x, y, (0.1,))
    z = (x - x.mean(0)) / x.std(0, correction=0)
    wanted = torch.linalg.solve(
        z.mT @ z + 0.1 * 12 * torch.eye(30).double(), z.mT @ (y - y.mean(0))
    )
    assert torch.allclose(x @ weight.mT + bias, z @ wanted + y.mean(0), atol=1e-8)


def test_constant_features_do_no_harm() -> None:
    x = torch.cat([torch.randn(50, 2), torch.ones(50, 1)], 1)
    assert bool(fit_head(x, x[:, :2])(x).isfinite().all())


def test_pooling_is_means_and_sizes() -> None:
    x = torch.randn(4, 3, 5, 6)
    wanted = torch.cat([x.mean((2, 3)), x.square().mean((2, 3)).sqrt()], 1)
    assert torch.allclose(pool(x), wanted, atol=1e-6)
    tokens = torch.randn(4, 7, 3)
    assert torch.allclose(pool(tokens)[:, :3], tokens.mean(1))


def test_where_something_is_can_be_seen() -> None:
    x = torch.zeros(300, 2, 8, 8)
    corner = torch.randint(4, (300,))
    for k, place in enumerate(corner.tolist()):
        x[k, 0, 4 * (place // 2), 4 * (place % 2)] = 1.0
    wanted = torch.nn.functional.one_hot(corner, 4).float()
    fine = fit_finest(pool(x), look(x), wanted)
    assert fine.fine and bool((fine(x).argmax(1) == corner).all())
    plain = torch.randn(60, 3)  # no map: there is nothing finer
    few = fit_finest(pool(plain), look(plain), plain[:, :1])
    assert not few.fine and few(plain).shape == (60, 1)


def test_confidence_of_one_class_and_of_many() -> None:
    assert torch.equal(confidence(torch.zeros(2, 1)), torch.ones(2))
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log()
    assert float(confidence(logits)) == pytest.approx(0.5)


def test_confidence_of_one_is_that_of_many() -> None:
    logits = 3 * torch.randn(40, 10)
    logits[0, 3], logits[1, 5] = 200.0, float("nan")
    logits[2] = 0.0
    many = confidence(logits).tolist()
    for one, wanted in zip(logits.split(1), many, strict=True):
        assert confidence_of_one(one) == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert confidence_of_one(logits[:1]) == many[0] == 1.0
    wide = torch.randn(1, 500)
    assert confidence_of_one(wide) == float(confidence(wide))
    assert confidence_of_one(torch.zeros(1, 1)) == 1.0


def test_thresholds_by_brute_force() -> None:
    sure = (torch.rand(60) * 10).round() / 10  # with ties
    right = torch.rand(60) < sure
    risks = [0.0, 0.05, 0.2, 1.0]
    found = thresholds([sure], [right], risks)[:, 0]
    for risk, threshold in zip(risks, found.tolist(), strict=True):
        fine = [
            value
            for value in sure.unique().tolist()
            if (~right[sure >= value]).double().mean() <= risk
        ]
        assert threshold == pytest.approx(min(fine, default=float("inf")))
    assert bool((found[1:] <= found[:-1]).all())
