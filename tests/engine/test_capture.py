from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.graph import run


def runs(net: nn.Module, example: Tensor, *others: Tensor) -> list[str]:
    """Capture, and compare on the example and on inputs of other sizes; the operations."""
    net.eval()
    graph = capture(net, as_call(net, example))
    for x in (example, *others):
        with torch.no_grad():
            out = run(graph, [x], graph.weights, lambda name, args: None)
            assert torch.allclose(out[0], net(x), atol=1e-6)
    return [node.op for node in graph.nodes]


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y = y.relu_()
        y += 1
        y *= y
        return y.flatten(1).sum(1)


class ThroughAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        y[:, 0].mul_(3)
        return y


def test_changes_in_place_have_new_names() -> None:
    ops = runs(InPlace(), torch.randn(1, 2, 6, 6), torch.randn(3, 2, 7, 9))
    assert not any(op.split(".")[1].endswith("_") for op in ops)


def test_changes_through_views() -> None:
    runs(ThroughAView(), torch.randn(2, 3), torch.randn(4, 3))


def test_names_of_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    graph = capture(net, as_call(net, torch.randn(1, 2)))
    assert set(graph.weights) == {"0.weight", "0.bias"}


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return x * self.n


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("net", [Counting(), Deciding()])
def test_what_cannot_be_captured(net: nn.Module) -> None:
    with pytest.raises(sc.errors.UnsupportedModel):
        capture(net, as_call(net, torch.ones(2)))
