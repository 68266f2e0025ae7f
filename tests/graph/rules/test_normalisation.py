"""Normalisations in models: exact per channel, statistical over channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import cuts, free
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

NORMS: list[Any] = [
    pytest.param(nn.BatchNorm2d(8), {"0": 8}, False, id="batch"),
    pytest.param(nn.BatchNorm2d(8, affine=False), {"0": 8}, False, id="batch without scale"),
    pytest.param(nn.InstanceNorm2d(8, affine=True), {"0": 8}, False, id="instance"),
    pytest.param(nn.GroupNorm(2, 8), {"0.0": 2, "0.1": 4}, True, id="group"),
    pytest.param(nn.GroupNorm(1, 8), {"0": 8}, True, id="one group"),
    pytest.param(nn.GroupNorm(8, 8), {"0": 8}, False, id="a group a channel"),
    pytest.param(nn.LocalResponseNorm(3), {"0": 8}, True, id="local response"),
    pytest.param(nn.LocalResponseNorm(4, alpha=0.5, k=2), {"0": 8}, True, id="even response"),
    pytest.param(nn.LocalResponseNorm(2, beta=1.5), {"0": 8}, True, id="narrow response"),
]


@pytest.mark.parametrize(("norm", "expected", "statistical"), NORMS)
def test_norms_of_images(norm: nn.Module, expected: dict[str, int], statistical: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    if isinstance(norm, nn.BatchNorm2d):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    graph = analyze(net, IMAGE)
    assert free(graph) == expected
    assert any(axis.statistical for axis in graph.axes.values()) is statistical
    cuts(net, IMAGE, graph)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8)])
def test_norms_over_features(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 2))
    graph = analyze(net, X)
    assert free(graph) == {"0": 8} and graph.axes["0"].statistical
    if isinstance(norm, nn.LayerNorm):
        assert graph.roles["1.weight", 0] == "scale"
        assert graph.roles.get(("1.bias", 0), "shift") == "shift"
    cuts(net, X, graph)


def test_a_norm_over_several_dimensions() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 6, 6]), nn.Conv2d(8, 2, 1))
    graph = analyze(net, IMAGE)
    assert free(graph) == {"0": 8}
    cuts(net, IMAGE, graph)


def test_a_norm_written_by_hand() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.g = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.rand(8))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.g
            return self.b(y)

    graph = analyze(Norm(), X)
    assert free(graph) == {"a": 8} and graph.axes["a"].statistical
    cuts(Norm(), X, graph)


def test_standardised_weights() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            w = F.batch_norm(
                self.weight.reshape(1, self.out_channels, -1), None, None, training=True
            ).reshape_as(self.weight)
            return F.conv2d(x, w, self.bias)

    net = nn.Sequential(nn.Conv2d(3, 8, 1), Standardised(8, 6, 3), nn.Conv2d(6, 2, 1))
    graph = analyze(net, IMAGE)
    assert "1" in free(graph)
    cuts(net, IMAGE, graph)


@pytest.mark.parametrize("dim", [0, None])
def test_weight_norm(dim: int | None) -> None:
    wrapped = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8), dim=dim)
    net = nn.Sequential(wrapped, nn.ReLU(), nn.Linear(8, 2))
    cuts(net, X)
    assert len(free(analyze(net, X))) == 1 or dim is None


def test_spectral_norm_stays() -> None:
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8)), nn.Linear(8, 2))
    cuts(net.eval(), X)
