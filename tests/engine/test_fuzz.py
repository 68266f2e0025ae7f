"""Whole networks with kernels drawn by lot, on any number of threads, whatever memory held."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from tests.engine.nets import Encoder, Inverted, Mixed, Signal, prune
from torch import Tensor, nn

import secateur as sc
from secateur.engine import compiler, decide
from secateur.engine.decide import Run
from secateur.engine.fast import Fast

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Rows(nn.Sequential):
    """Layers of sizes that no kernel's groups of rows divide."""

    def __init__(self) -> None:
        sizes = [random.randrange(3, 70) for _ in range(4)]
        pairs = [(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(sizes)]
        super().__init__(*chain.from_iterable(pairs))


def image(channels: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(
        random.randrange(1, 5), channels, random.randrange(36, 60), random.randrange(36, 60)
    )


INPUTS: dict[type[nn.Module], Callable[[], Tensor]] = {
    Mixed: image(3),
    Inverted: image(3),
    Signal: lambda: torch.randn(random.randrange(1, 5), 4, random.randrange(24, 80)),
    Encoder: lambda: torch.randint(0, 50, (random.randrange(1, 5), random.randrange(2, 30))),
}


def one_network(seed: int, folder: Path) -> None:
    """Compile a network and call it; all sizes, kernels and threads are drawn from the seed."""
    random.seed(seed)
    torch.manual_seed(seed)
    kind = random.choice([*INPUTS, Rows])
    net = prune(kind(), random.choice([0.1, 0.2, 0.5]), seed)
    wide = net[0].in_features if isinstance(net, Rows) else 0

    def example() -> Tensor:
        return torch.randn(random.choice([1, 1, 2, 9, 40]), wide) if wide else INPUTS[kind]()

    torch.set_num_threads(random.choice([1, 2, 3]))
    x = example()
    fast = sc.compile(net, x, cache=folder / str(seed))
    assert isinstance(fast, Fast)
    for turn in range(4):
        if turn > 1:
            x = example()
        elif x.is_floating_point():
            x = torch.randn_like(x)
        torch.set_num_threads(random.choice([1, 2, 3]))
        for _, programs in fast._plans.values():
            for program in programs:
                program.arena.disturb()
        wanted = net(x)
        error = (fast(x) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)
        assert error < 3e-6, (kind.__name__, tuple(x.shape), torch.get_num_threads(), str(fast))


@torch.no_grad()
@pytest.mark.parametrize(
    "first",
    [pytest.param(0), *(pytest.param(n, marks=pytest.mark.slow) for n in range(1000, 2000, 50))],
)
def test_networks(first: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def drawn(run: Run) -> float:
        run.call()
        return random.random() * 1e-6

    monkeypatch.setattr(decide, "_seconds", drawn)
    monkeypatch.setattr(compiler, "_faster", lambda before, after: True)
    threads = torch.get_num_threads()
    try:
        for seed in range(first, first + (4 if first == 0 else 50)):
            one_network(seed, tmp_path)
    finally:
        torch.set_num_threads(threads)
