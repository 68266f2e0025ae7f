"""Elementwise operations in models: broadcasting, gates, scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from analysis import Between, cuts, free
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

CODES: list[Any] = [
    pytest.param(lambda m, y: y * 2 + 1 - y.abs(), id="scalars"),
    pytest.param(lambda m, y: y.clamp(min=0).add_(1).sqrt_(), id="in place"),
    pytest.param(lambda m, y: y * y.mean(-1, keepdim=True), id="one index adapts"),
    pytest.param(lambda m, y: torch.where(y > 0, y, torch.zeros(())), id="where"),
    pytest.param(lambda m, y: y.masked_fill(y < 0, 0.0), id="masked_fill"),
    pytest.param(lambda m, y: y.to(torch.float64).to(torch.float32), id="casts"),
    pytest.param(lambda m, y: torch.complex(y, y).abs(), id="complex"),
    pytest.param(lambda m, y: y.sigmoid() * y.tanh(), id="gates"),
    pytest.param(lambda m, y: torch.maximum(y, -y), id="maximum"),
    pytest.param(lambda m, y: (y > 0).float() * y, id="comparison"),
    pytest.param(lambda m, y: nn.functional.dropout(y, 0.5, False), id="dropout that is off"),
]


@pytest.mark.parametrize("code", CODES)
def test_the_axis_passes_through(code: Any) -> None:
    model = Between(code)
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)


def test_scales_and_slopes_follow() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.gamma, self.act = nn.Parameter(torch.rand(8)), nn.PReLU(8)
            self.register_buffer("shift", torch.rand(1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.act(self.a(x) * self.gamma + self.shift))

    graph = analyze(Scaled(), X)
    assert free(graph) == {"a": 8}
    assert {name for name, n in graph.layouts.items() if any(layout.names for layout in n)} == {
        "a.weight", "a.bias", "b.weight", "gamma", "act.weight", "shift",
    }  # fmt: skip
    assert graph.roles["shift", 1] == "buffer"
    cuts(Scaled(), X)


def test_added_branches_are_one_axis() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y += self.b(x)
            return self.c(y)

    graph = analyze(Added(), X)
    assert free(graph) == {"a": 8} and graph.layouts["b.weight"][0].to_json() == "a"
    cuts(Added(), X)


def test_an_outer_product_is_two_axes() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 3), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c((self.a(x)[:, :, None] * self.b(x)[:, None]).flatten(1))

    graph = analyze(Outer(), X)
    assert free(graph) == {"a": 8, "b": 3}
    assert graph.layouts["c.weight"][1].to_json() == {"product": ["a", "b"]}
    cuts(Outer(), X)
