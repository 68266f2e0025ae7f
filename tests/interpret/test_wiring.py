"""Edges are the weights that are there, between the units that are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call, as_call
from secateur.interpret.ablate import Places
from secateur.interpret.wiring import wiring


def places(model: nn.Module, x: Tensor) -> Places:
    return Places.of(model, as_call(model, x[:1]), [Call((x,), {})])


def test_a_perceptron_is_drawn_weight_by_weight() -> None:
    model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(4, 2)
    with torch.no_grad():
        model[0].weight[0, 1] = 0
    found = places(model, x)
    keep = found.full()
    keep["0"][2] = False
    drawn = wiring(
        model, found, keep, inputs=("age", "size"), outputs=("risk",),
        sizes={"0": torch.tensor([0.5, 1.0, 0.0])},
    )  # fmt: skip
    assert drawn.heads == ("inputs", "0", "outputs")
    assert [[node.label for node in column] for column in drawn.columns] == [
        ["age", "size"], ["0", "1"], ["risk"],
    ]  # fmt: skip
    assert [node.size for node in drawn.columns[1]] == [0.5, 1.0]
    first, second = model[0].weight.detach(), model[2].weight.detach()
    weights = {(edge.start, edge.end): edge.weight for edge in drawn.edges}
    assert weights == {
        ((0, 0), (1, 0)): pytest.approx(float(first[0, 0])),
        ((0, 0), (1, 1)): pytest.approx(float(first[1, 0])),
        ((0, 1), (1, 1)): pytest.approx(float(first[1, 1])),
        ((1, 0), (2, 0)): pytest.approx(float(second[0, 0])),
        ((1, 1), (2, 0)): pytest.approx(float(second[0, 1])),
    }


def test_kernels_and_shortcuts() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 3, padding=1)
            self.down, self.head = nn.Conv2d(4, 3, 1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.down(self.up(x).relu())
            return self.head(x.mean((2, 3)))

    model, x = Residual(), torch.randn(2, 1, 6, 6)
    drawn = wiring(model, places(model, x))
    assert drawn.heads == ("inputs", "stem", "up", "outputs")
    edges = {(edge.start, edge.end): edge.weight for edge in drawn.edges}
    assert edges[(1, 2), (2, 3)] == pytest.approx(float(model.up.weight.detach()[3, 2].norm()))
    assert edges[(2, 3), (1, 2)] == pytest.approx(float(model.down.weight.detach()[2, 3, 0, 0]))
    assert len(edges) == 3 + 12 + 12 + 6
