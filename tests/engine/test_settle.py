from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.nets import Mixed, Signal, prune
from torch import nn

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.decide import TORCH, Decision, assemble, decide
from secateur.engine.fast import shapes_of
from secateur.engine.fuse import fuse
from secateur.engine.program import Program
from secateur.engine.settle import _close, settle
from secateur.measure.latency_cache import TimeCache

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Times(TimeCache):
    """Times as a test wants them: alone a loop is the fastest, in the network another kernel."""

    def __init__(self, fast: str, missing: bool = False) -> None:
        super().__init__(None, {})
        self.fast, self.missing = fast, missing

    def get(self, key: str) -> float | None:
        if " in " not in key:
            slower = 0.0001 if self.fast and f" {self.fast}" in key else 0.0002
            return 0.002 if key.endswith(f" {TORCH}") else 0.001 + slower * ("-loop 8" not in key)
        if self.missing:
            return super().get(key)
        return 0.0001 if f" {self.fast}" in key else 0.0002


@torch.no_grad()
def test_the_fastest_in_the_network_is_taken_and_runs() -> None:
    net, x = prune(Signal()), torch.randn(2, 4, 64)
    graph = fuse(capture(net, as_call(net, x)))
    shapes = shapes_of(graph, [x])
    times = Times("llvm-csr")
    decisions = decide(graph, shapes, times)
    found = settle(graph, shapes, decisions, [x], times)
    assert all(d.kernel.startswith("llvm-csr") and d.ms == 1.1 for d in found.values())
    run = Program(assemble(graph, shapes, found), [x])
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("make", [Mixed, Signal])
def test_every_kernel_is_timed_in_the_network(make: type[nn.Module]) -> None:
    net = prune(make())
    x = torch.randn(1, 3, 64, 64) if make is Mixed else torch.randn(1, 4, 64)
    graph = fuse(capture(net, as_call(net, x)))
    shapes = shapes_of(graph, [x])
    known = Times("", missing=True)
    decisions = decide(graph, shapes, known)
    settle(graph, shapes, decisions, [x], known)
    timed = [key for key in known._new if " in " in key]
    assert len(timed) >= 4 and all(0 < known._new[key] < 1 for key in timed)
    known._new.clear()
    settle(graph, shapes, decisions, [x], known)
    assert not known._new  # what is known is not timed again


def test_kernels_that_are_much_slower_alone_are_left_out() -> None:
    alone = {"a": 1.0, "b": 1.2, "c": 1.6, "d": 1.8, "vec-sliced 8": 1.1}
    assert _close(Decision("a", 1, 9), alone) == ("a", "b", "c")
    assert _close(Decision("a", 1, 1.5), alone) == ("a", "b")  # torch is faster than c
    assert _close(Decision("torch", 1, 1), alone) == ()
    assert _close(Decision("vec-sliced 8", 1, 9), alone) == ()


def test_times_are_kept(tmp_path: Path) -> None:
    net, x = prune(Signal()), torch.randn(1, 4, 64)
    graph = fuse(capture(net, as_call(net, x)))
    shapes = shapes_of(graph, [x])
    first = TimeCache(tmp_path, {})
    with torch.no_grad():
        settled = settle(graph, shapes, decide(graph, shapes, first), [x], first)
        second = TimeCache(tmp_path, {})
        again = settle(graph, shapes, decide(graph, shapes, second), [x], second)
    assert again == settled and not second._new
