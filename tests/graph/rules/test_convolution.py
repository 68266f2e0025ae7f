"""Convolutions in models: groups, depthwise multipliers, transposed ones, space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import attributes, cuts, free, frozen
from torch import Tensor, nn

from secateur.graph import analyze

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

MODELS: list[Any] = [
    pytest.param([nn.Conv2d(8, 6, 3)], {"0": 8, "1": 6}, id="plain"),
    pytest.param([nn.Conv2d(8, 6, 3, stride=2, padding=1)], {"0": 8, "1": 6}, id="strided"),
    pytest.param([nn.Conv2d(8, 6, 3, dilation=2)], {"0": 8, "1": 6}, id="dilated"),
    pytest.param([nn.Conv2d(8, 8, 3, groups=8)], {"0": 8}, id="depthwise"),
    pytest.param([nn.Conv2d(8, 16, 3, groups=8)], {"0": 8, "1.1": 2}, id="multiplier"),
    pytest.param([nn.Conv2d(8, 4, 3, groups=2)], {"0.0": 2, "0.1": 4, "1.1": 2}, id="grouped"),
    pytest.param([nn.ConvTranspose2d(8, 6, 3)], {"0": 8, "1": 6}, id="transposed"),
    pytest.param(
        [nn.ConvTranspose2d(8, 6, 3, groups=2)], {"0.0": 2, "0.1": 4, "1": 3}, id="upwards"
    ),
    pytest.param([nn.Conv2d(8, 6, 3, padding_mode="reflect", padding=1)], None, id="reflected"),
    pytest.param([nn.Conv2d(8, 6, 3, padding_mode="circular", padding=1)], None, id="circular"),
    pytest.param([nn.Conv2d(8, 6, 3, padding="same")], {"0": 8, "1": 6}, id="same"),
    pytest.param([nn.Unfold(2), nn.Fold((7, 7), 1)], None, id="windows"),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "expected"), MODELS)
def test_channels(layers: list[nn.Module], expected: dict[str, int] | None) -> None:
    width = {nn.Conv2d: "out_channels", nn.ConvTranspose2d: "out_channels"}
    out = getattr(layers[0], width.get(type(layers[0]), ""), 32)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.ReLU(), nn.Conv2d(out, 2, 1))
    graph = analyze(net, IMAGE)
    if expected is not None:
        assert free(graph) == expected
    cuts(net, IMAGE, graph)


class Shuffled(nn.Module):
    """A convolution whose filters come in another order than its groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(12, 2, 1)
        self.weight = nn.Parameter(torch.randn(2, 12, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        weight = F.channel_shuffle(self.weight, 3).transpose(0, 1)
        return self.b(F.conv2d(self.a(x), weight, groups=3))


def test_filters_across_groups() -> None:
    graph = analyze(Shuffled(), IMAGE)
    assert free(graph) == {"weight": 2}
    cuts(Shuffled(), IMAGE, graph)


MISALIGNED: list[Any] = [
    pytest.param([nn.Conv2d(12, 6, 3, groups=3)], {"2.1": 2}, id="grouped"),
    pytest.param([nn.ConvTranspose2d(12, 6, 3, groups=3)], {"2": 2}, id="upwards"),
    pytest.param([nn.Conv2d(12, 6, 3, groups=2)], {"0.1": 2, "0.2": 2, "2.1": 3}, id="aligned"),
]


@pytest.mark.parametrize(("layers", "expected"), MISALIGNED)
def test_groups_across_channels(layers: list[nn.Module], expected: dict[str, int]) -> None:
    shuffled = [nn.Conv2d(3, 12, 1), nn.ChannelShuffle(3), *layers]
    net = nn.Sequential(*shuffled, nn.ReLU(), nn.Conv2d(6, 2, 1))
    graph = analyze(net, IMAGE)
    assert free(graph) == expected
    cuts(net, IMAGE, graph)


def test_groups_are_attributes_that_follow() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, groups=2), nn.Conv2d(4, 2, 1))
    assert attributes(analyze(net, IMAGE))["1.groups"] == "0.0"


def test_kernels_are_not_named_and_space_is_frozen() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    graph = analyze(net, IMAGE)
    assert set(graph.axes) == {"0", "0#2", "1", "1#2", "2"} and free(graph) == {"1": 4}
    assert frozen(graph, "0").text == "the space that a convolution slides over"


def test_work() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, groups=2))
    totals = {}
    for term in analyze(net, IMAGE).terms:
        size = term.factor
        for layout in term.layouts:
            size *= layout.size
        totals[term.module] = size
    assert totals == {"0": 2 * 36 * 8 * 3 * 9, "1": 2 * 16 * 4 * 4 * 9}
