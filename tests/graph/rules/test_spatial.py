"""Pooling, resizing and sampling in models: channels pass through, space stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import cuts, free, frozen
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


class Neighbours(nn.Module):
    """A response normalisation over neighbouring channels, written by hand."""

    def __init__(self, pool: nn.Module, ends: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.a, self.b, self.pool, self.ends = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), pool, ends

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        squares = F.pad(y.square().unsqueeze(1), (0, 0, 0, 0, *self.ends))
        return self.b(y / (1 + self.pool(squares).squeeze(1)).sqrt())


POOLS: list[Any] = [
    (nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0)), (0, 0)),
    (nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0), count_include_pad=False), (0, 0)),
    (nn.AvgPool3d((5, 1, 1), 1, (1, 0, 0)), (1, 1)),
    (nn.AvgPool3d((3, 1, 1), 1), (0, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("pool", "ends"), POOLS)
def test_means_over_neighbouring_channels_are_statistics(pool: nn.Module, ends: Any) -> None:
    net = Neighbours(pool, ends)
    graph = analyze(net, IMAGE)
    assert free(graph) == {"a": 8} and graph.axes["a"].statistical
    cuts(net, IMAGE, graph)


def test_other_pools_over_channels_hold_them_and_say_so() -> None:
    graph = analyze(Neighbours(nn.MaxPool3d((3, 1, 1), 1, (1, 0, 0))), IMAGE)
    assert frozen(graph, "a").text == "max_pool3d_with_indices runs along it"


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
