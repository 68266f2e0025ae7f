"""Views in models: merge, factor, permute, shuffle."""

from __future__ import annotations

from typing import Any

import torch
from analysis import Between, cuts, free, frozen
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_flatten_is_channels_times_space() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 2))
    graph = analyze(net, IMAGE)
    assert graph.layouts["2.weight"][1].to_json() == {"product": ["0", 4]}
    cuts(net, IMAGE, graph)


def test_tokens_of_an_image() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Flatten(2))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.norm, self.head = net, nn.LayerNorm(8), nn.Linear(8, 2)
            self.cls, self.pos = (
                nn.Parameter(torch.randn(1, 1, 8)),
                nn.Parameter(torch.randn(1, 5, 8)),
            )

        def forward(self, x: Tensor) -> Tensor:
            y = self.patch(x).transpose(1, 2)
            y = torch.cat([self.cls.expand(x.shape[0], -1, -1), y], 1) + self.pos
            return self.head(self.norm(y)[:, 0])

    graph = analyze(Tokens(), IMAGE)
    assert list(free(graph).values()) == [8]
    assert graph.layouts["pos"][1].to_json() == 5
    cuts(Tokens(), IMAGE)


def test_batch_and_rows_merge_and_come_apart() -> None:
    model = Between(
        lambda m, y: (
            y.view(2, 3, -1).flatten(0, 1).view(-1, 8)
            if False
            else y.view(2, 3, y.shape[1]).flatten(0, 1)
        )
    )
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)


def test_a_view_that_mixes_rows_and_features_freezes() -> None:
    model = Between(lambda m, y: y.view(8, 6).view(6, 8))
    graph = analyze(model, X)
    assert free(graph) == {} and "does not line up" in frozen(graph, "a").text


def test_a_transposed_view_is_another_order() -> None:
    def shuffle(m: Any, y: Tensor) -> Tensor:
        return y.view(-1, m.g, m.d).transpose(1, 2).reshape(-1, m.g * m.d)

    model = Between(shuffle, g=2, d=4)
    graph = analyze(model, X)
    assert graph.layouts["a.weight"][0].to_json() == {"product": ["a.0", "a.1"]}
    assert graph.layouts["b.weight"][1].to_json() == {"product": ["a.1", "a.0"]}
    cuts(model, X, graph)


def test_the_real_and_imaginary_part() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.angle = nn.Parameter(torch.rand(4))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.view_as_complex(self.a(x).unflatten(-1, (-1, 2)))
            turned = y * torch.polar(torch.ones_like(self.angle), self.angle)
            return self.b(torch.view_as_real(turned).flatten(-2))

    graph = analyze(Rotary(), X)
    assert list(free(graph).values()) == [4]
    cuts(Rotary(), X)


def test_pixel_shuffle() -> None:
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2), nn.Conv2d(3, 2, 1))
    graph = analyze(net, IMAGE)
    assert free(graph) == {"0.0": 3}
    cuts(net, IMAGE, graph)


def test_flips_and_rolls_hold_what_they_move() -> None:
    assert free(analyze(Between(lambda m, y: y.flip(1)), X)) == {}
    model = Between(lambda m, y: y.flip(0).roll(1, 0))
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)
