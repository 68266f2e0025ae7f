from __future__ import annotations

import pytest
import torch
from tests.engine.nets import Signal, prune

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.decide import SEQUENCE, TORCH, assemble, decide
from secateur.engine.fast import shapes_of
from secateur.engine.fuse import fuse
from secateur.measure.latency_cache import TimeCache

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Wanted(TimeCache):
    """Times as a test wants them: nothing is measured."""

    def __init__(self, fast: str) -> None:
        super().__init__(None, {})
        self.fast, self.asked = fast, list[str]()

    def get(self, key: str) -> float | None:
        self.asked.append(key)
        return 0.001 if self.fast in key else 0.002


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
            assert decision.ms <= decision.dense_ms
    parts = assemble(graph, shapes, decisions)
    own = {n for n, decision in decisions.items() if decision.kernel not in (TORCH, SEQUENCE)}
    assert set(parts.kernels) == own and bool(own) == (fast != " torch")
