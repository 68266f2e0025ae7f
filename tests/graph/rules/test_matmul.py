"""Matrix products in models: consumers, batches of heads, experts."""

from __future__ import annotations

import torch
from analysis import cuts, free
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_roles() -> None:
    graph = analyze(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), X)
    assert graph.roles["0.weight", 0] == "out" and graph.roles["1.weight", 1] == "in"
    assert graph.roles["0.bias", 0] == "out"


def test_weights_the_other_way_round() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(torch.zeros(2), x @ self.a, self.b)

    graph = analyze(Net(), X)
    assert graph.roles["a", 1] == "out" and graph.roles["b", 0] == "in"
    assert list(free(graph).values()) == [6]
    cuts(Net(), X)


def test_a_batch_of_weights() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(3, 4, 6))
            self.down = nn.Parameter(torch.randn(3, 6, 2))

        def forward(self, x: Tensor) -> Tensor:
            return (torch.matmul(torch.matmul(x, self.up).relu(), self.down)).mean(0)

    graph = analyze(Experts(), X)
    assert sorted(free(graph).values()) == [3, 6]
    cuts(Experts(), X)


def test_distances() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.prototypes = nn.Linear(4, 6), nn.Parameter(torch.randn(3, 6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(self.a(x), self.prototypes)

    graph = analyze(Prototypes(), X)
    assert free(graph) == {"a": 6} and graph.axes["a"].statistical
    cuts(Prototypes(), X)


def test_bilinear() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)
            self.mix, self.out = nn.Bilinear(6, 5, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.mix(self.a(x), self.b(x)))

    assert free(analyze(Net(), X)) == {"a": 6, "b": 5, "mix": 7}
    cuts(Net(), X)


def test_grouped_experts() -> None:
    if not hasattr(torch, "_grouped_mm"):
        return

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 16)
            self.up = nn.Parameter(torch.randn(2, 16, 24))
            self.down = nn.Parameter(torch.randn(2, 24, 8))

        def forward(self, x: Tensor) -> Tensor:
            ends = torch.tensor([8, 16], dtype=torch.int32)
            y = torch._grouped_mm(self.stem(x).bfloat16(), self.up.bfloat16(), offs=ends)
            return torch._grouped_mm(y, self.down.bfloat16(), offs=ends)

    graph = analyze(Experts(), torch.randn(16, 4))
    assert sorted(free(graph).values()) == [16, 24]
