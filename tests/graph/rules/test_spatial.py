"""Pooling, resizing and sampling in models: channels pass through, space stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import cuts, free
from torch import Tensor, nn

from secateur.graph import analyze

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

LAYERS: list[Any] = [
    nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(3),
    nn.Upsample(scale_factor=2), nn.Upsample(size=(5, 6), mode="bilinear"), nn.ReflectionPad2d(1),
    nn.ReplicationPad2d(1), nn.ZeroPad2d(1), nn.LPPool2d(2, 2), nn.Dropout2d(),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_channels_pass_through(layer: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 2, 1))
    assert free(analyze(net, IMAGE)) == {"0": 8}
    cuts(net, IMAGE)


def test_images_without_a_batch() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 2, 1))
    assert free(analyze(net, IMAGE[0])) == {"0": 8}
    cuts(net, IMAGE[0])


def test_sampled_grids() -> None:
    class Sampled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
            self.theta = nn.Parameter(torch.eye(2, 3)[None].repeat(2, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            grid = F.affine_grid(self.theta, list(y.shape), align_corners=False)
            return self.b(F.grid_sample(y, grid, align_corners=False))

    assert "a" in free(analyze(Sampled(), IMAGE)) or free(analyze(Sampled(), IMAGE)) == {}
    cuts(Sampled(), IMAGE)


def test_global_pools_in_every_way() -> None:
    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Conv2d(3, 8, 3), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            pooled = [y.mean((2, 3)), y.amax((-2, -1)), F.adaptive_avg_pool2d(y, 1).flatten(1)]
            return self.head(torch.cat(pooled, 1))

    graph = analyze(Pools(), IMAGE)
    assert free(graph) == {"a": 8} and not graph.axes["a"].statistical
    assert graph.layouts["head.weight"][1].to_json() == {"concat": ["a"] * 3}
    cuts(Pools(), IMAGE)
