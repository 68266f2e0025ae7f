from __future__ import annotations

import torch
import torch.nn.functional as F
from tests.engine.nets import Mixed, Signal, prune
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.fuse import fuse
from secateur.engine.graph import Graph, run
from secateur.engine.layer import Dense
from secateur.engine.recurrence import Steps


def fused(net: nn.Module, x: Tensor) -> Graph:
    """The fused graph, which must give what the network gives."""
    graph = fuse(capture(net, as_call(net, x)))
    dense = {
        name: Dense(layer) if hasattr(layer, "dims") else Steps(layer, sparse=False)
        for name, layer in graph.layers.items()
    }
    with torch.no_grad():
        out = run(graph, [x], graph.weights, lambda name, args: dense[name](*args))
        assert torch.allclose(out[0], net(x), atol=1e-5)
    return graph


def described(graph: Graph) -> dict[str, tuple[str, bool]]:
    return {layer.label: (layer.activation, layer.residual) for layer in graph.layers.values()}


def test_everything_joins_its_layer() -> None:
    graph = fused(prune(Mixed()), torch.randn(2, 3, 40, 48))
    assert described(graph) == {
        "stem": ("relu", False), "a": ("relu", False), "b": ("relu", True), "side": ("none", False),
        "down": ("relu", True), "each": ("hardswish", False), "wide": ("none", False),
        "head": ("none", False),
    }  # fmt: skip
    assert not any("norm" in node.op for node in graph.nodes)


def test_zeros_stay_zeros_whatever_a_batch_norm_does() -> None:
    net = prune(Signal())
    net.norm.running_var[0] = -net.norm.eps  # its scale is infinite
    graph = fuse(capture(net, as_call(net, torch.randn(2, 4, 16))))
    layer = next(layer for layer in graph.layers.values() if layer.label == "b")
    assert layer.weight.nnz == int((net.b.weight != 0).sum())


class Shared(nn.Module):
    """Outputs that are used twice are not swallowed; a sum with itself is no residual."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(x)
        return F.relu(y) + y + (z + z) + torch.add(self.a(x), x, alpha=2)


def test_what_others_use_stays() -> None:
    graph = fused(Shared(), torch.randn(2, 4))
    assert ("relu", False) not in described(graph).values()


class Wide(nn.Module):
    """A sum that is spread over a dimension is no residual."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x[:, :1]) + x


def test_spread_sums_stay() -> None:
    graph = fused(Wide(), torch.randn(2, 3, 4))
    assert described(graph) == {"a": ("none", False)}
