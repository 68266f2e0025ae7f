"""Means of what was removed become biases; means of norms are those of the normal distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from repair_nets import Attention, Residual, shrink, unsettle
from scipy import special, stats
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.recover import Compensate, Job

S = nn.Sequential


def without_data(cut: Any, x: Tensor) -> Job:
    plan = replace(cut.plan, example=as_call(cut.dense, x[:2]))
    return Job(cut.dense, cut.small, plan, cut.graph.roles, None)


NONLINEAR: dict[str, tuple[nn.Module, Any]] = {
    "relu": (nn.ReLU(), lambda z: np.maximum(z, 0)),
    "identity": (nn.Identity(), lambda z: z),
    "silu": (nn.SiLU(), lambda z: z * special.expit(z)),
    "hardtanh": (nn.Hardtanh(), lambda z: np.clip(z, -1, 1)),
}


@pytest.mark.parametrize("name", NONLINEAR)
@pytest.mark.parametrize("bias", [True, False])
def test_means_behind_norms_are_those_of_the_normal_distribution(name: str, bias: bool) -> None:
    """Against scipy's quadrature, into the consumer's bias or the running mean behind it."""
    torch.manual_seed(0)
    module, function = NONLINEAR[name]
    model = unsettle(
        S(nn.Linear(6, 8), nn.BatchNorm1d(8), module, nn.Linear(8, 4, bias=bias), nn.BatchNorm1d(4))
    )
    x = torch.randn(30, 6)
    cut = shrink(model, x, {"0": [1, 4, 5]})
    before = cut.small[3].bias.clone() if bias else cut.small[4].running_mean.clone()
    job = without_data(cut, x)
    Compensate(samples=2048).run(job)
    assert job.notes == ["means of removed channels: done, not checked (there is no data)"]
    wanted = np.zeros(4)
    for channel in (1, 4, 5):
        beta, gamma = (float(p.detach()[channel]) for p in (model[1].bias, model[1].weight))
        mean = stats.norm(beta, abs(gamma)).expect(function)
        wanted += model[3].weight.detach().double().numpy()[:, channel] * mean
    after = cut.small[3].bias if bias else cut.small[4].running_mean
    found = (after - before).detach().double().numpy()
    np.testing.assert_allclose(found if bias else -found, wanted, atol=3e-3)


@pytest.mark.parametrize("padding", [0, 1])
def test_means_of_data_are_exact(padding: int) -> None:
    """With zero padding what counts is the mean of what the kernel sees."""
    torch.manual_seed(0)
    model = S(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=padding))
    x = torch.randn(40, 3, 9, 9)
    cut = shrink(model, x[:2], {"0": [0, 3]})
    job = cut.job([x])
    Compensate(norms=False).run(job)
    fit = torch.cat([call.args[0] for call in job.calibration.fit])  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(
            cut.small(fit).mean((0, 2, 3)), model(fit).mean((0, 2, 3)), rtol=1e-3, atol=2e-3
        )


def test_twice_is_the_same_as_once() -> None:
    torch.manual_seed(0)
    model = unsettle(Residual())
    x = torch.randn(30, 3, 8, 8)
    cut = shrink(model, x[:2], {"blocks.0.conv1": [1, 2], "blocks.1.conv1": [0, 7]})
    job = without_data(cut, x)
    Compensate().run(job)
    once = {key: value.clone() for key, value in cut.small.state_dict().items()}
    Compensate().run(job)
    for key, value in cut.small.state_dict().items():
        torch.testing.assert_close(value, once[key])
    assert any("running_mean" in key for key in once)


def test_it_brings_the_network_closer() -> None:
    torch.manual_seed(0)
    model = unsettle(Residual())
    x = torch.randn(60, 3, 8, 8)
    model.train()(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(x)
    model.eval()
    for norms in (True, False):
        cut = shrink(model, x[:2], {"blocks.0.conv1": [1, 2], "blocks.1.conv1": [0, 7]})
        job = cut.job([x])
        before = job.distance
        Compensate(norms=norms).run(job)
        assert job.distance < 0.9 * before


def test_transformers_have_means_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(60, 5, 16)
    cut = shrink(Attention(), x[:2], {"up": list(range(0, 32, 2)), "q.head": [1]})
    job = cut.job([x])
    before = job.distance
    Compensate().run(job)
    assert job.distance < before


def test_without_anything_to_run_nothing_is_done() -> None:
    model, x = S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(20, 6)
    cut = shrink(model, x, {"0": [1]})
    job = Job(model, cut.small, cut.plan, cut.graph.roles, None)
    Compensate().run(job)
    assert job.notes == ["means: there is neither data nor an example to run"]
    job = without_data(cut, x)
    Compensate().run(job)
    assert job.notes == ["means: neither data nor a batch normalisation says what they are"]
    whole = shrink(model, x, {})
    job = whole.job([x])
    Compensate().run(job)
    assert job.notes == ["means: no layer lost inputs"]
