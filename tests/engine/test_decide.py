from __future__ import annotations

import pytest
import torch
from tests.engine.nets import Signal, prune
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.decide import (
    _COPIES,
    SEQUENCE,
    TORCH,
    assemble,
    decide,
    first_layout,
    kernels_of,
)
from secateur.engine.fast import shapes_of
from secateur.engine.fuse import fuse
from secateur.engine.kernels import block_of
from secateur.measure.latency_cache import TimeCache
from secateur.runtime.emit.planes import available

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Wide(nn.Module):
    """An inverted bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.each = nn.Conv2d(4, 60, 1), nn.Conv2d(60, 60, 3, 1, 1, groups=60)
        self.down = nn.Conv2d(60, 60, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.each(torch.relu(self.up(x)))))


class Wanted(TimeCache):
    """Times as a test wants them: nothing is measured."""

    def __init__(self, fast: str) -> None:
        super().__init__(None, {})
        self.fast, self.asked = fast, list[str]()

    def get(self, key: str) -> float | None:
        self.asked.append(key)
        return 0.001 if self.fast in key else 0.002


@torch.no_grad()
def test_layers_before_depthwise_ones_make_few_planes_together() -> None:
    net, x = prune(Wide(), 0.5), torch.randn(1, 4, 100, 100)
    graph = fuse(capture(net, as_call(net, x)))
    shapes = shapes_of(graph, [x])
    layout = first_layout(graph, shapes)
    up, each, down = (node for node in graph.nodes if node.op == "layer")
    found = [kernels_of(graph, node, layout, shapes) for node in (up, each, down)]
    assert found[0] and max(map(block_of, found[0])) <= 8
    assert found[1] and all(name.startswith("llvm-depthwise ") for name in found[1])
    assert max(map(block_of, found[2])) == 60 or not available()


@torch.no_grad()
@pytest.mark.parametrize("fast", [" torch", " llvm-csr 4/1", " emit-"])
def test_the_fastest_is_taken(fast: str) -> None:
    net, x = prune(Signal()), torch.randn(1, 4, 64)
    graph = fuse(capture(net, as_call(net, x)))
    shapes = shapes_of(graph, [x])
    known = Wanted(fast)
    decisions = decide(graph, shapes, known)
    assert len(decisions) == 2
    if not any(fast in key for key in known.asked):
        pytest.skip(f"this machine has no kernel {fast}")
    for name, decision in decisions.items():
        if any(fast in key for key in known.asked if key.count("silu") == ("silu" in name)):
            assert decision.ms <= _COPIES * decision.dense_ms
    parts = assemble(graph, shapes, decisions)
    own = {n for n, decision in decisions.items() if decision.kernel not in (TORCH, SEQUENCE)}
    assert set(parts.kernels) == own and bool(own) == (fast != " torch")
