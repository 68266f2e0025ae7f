"""Layers that take turns read what they would read one after the other."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from tests.engine.nets import Inverted, Mixed, Signal, program
from torch import Tensor, nn

from secateur.core.threads import using
from secateur.engine.chain import CallsStep, ChainStep, Link, _mixed, connect, schedule
from secateur.engine.program import Program
from secateur.runtime.machine import Rounds

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


def some_links(rng: np.random.Generator) -> list[Link]:
    """Layers over few buffers, so that these are used again and again."""
    links, last = [], 0
    for _ in range(int(rng.integers(2, 8))):
        step = int(rng.choice([1, 4, 8]))
        writes = int(rng.choice([b for b in range(4) if b != last]))
        low, high = -int(rng.integers(0, 20)), int(rng.integers(0, 20))
        reads = [(last, low, high)]
        if rng.random() < 0.5:  # a residual, which may be the output's own buffer
            reads.append((int(rng.integers(4)), 0, 0))
        links.append(Link(step, -(-int(rng.integers(50, 60)) // step) * step, reads, writes))
        last = writes
    return links


@pytest.mark.parametrize("block", [1, 7, 16, 64, 1000])
def test_every_position_is_there_when_it_is_read(block: int) -> None:
    rng = np.random.default_rng(block)
    for _ in range(60):
        links = some_links(rng)
        connect(links)
        now = np.full((4, 200), -1)  # which link wrote a position of a buffer last
        seen: dict[tuple[int, int], list[np.ndarray]] = {}
        done = np.zeros((len(links), 200), int)

        def run(i: int, begin: int, end: int, now: np.ndarray, seen: dict, links=links) -> None:
            for position in range(begin, end):
                seen[i, position] = [
                    now[b, max(0, position + low) : position + high + 1].copy()
                    for b, low, high in links[i].reads
                ]
            now[links[i].writes, begin:end] = i

        for i, begin, end in schedule(links, block):
            assert begin % links[i].step == 0 and end % links[i].step == 0
            run(i, begin, end, now, seen)
            done[i, begin:end] += 1
        alone, right = np.full((4, 200), -1), {}
        for i, link in enumerate(links):
            for position in range(0, link.end, link.step):  # as kernels go: a step at a time
                run(i, position, position + link.step, alone, right)
            assert (done[i, : link.end] == 1).all() and not done[i, link.end :].any()
        for key, ours in seen.items():
            for a, b, (_, low, high) in zip(ours, right[key], links[key[0]].reads, strict=True):
                if low == high == 0 or all(
                    links[key[0]].writes != r[0] for r in links[key[0]].reads
                ):
                    np.testing.assert_array_equal(a, b)


class Bottlenecks(nn.Module):
    """Residual blocks, one of them without a border."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 6, 1)
        self.d, self.e = nn.Conv2d(6, 4, 3, 1, 2, dilation=2), nn.Conv2d(4, 6, 1)
        self.f = nn.Conv2d(6, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x + self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        x = torch.relu(x + self.e(torch.relu(self.d(x))))
        return self.f(x)


def chains(run: Program) -> list[int]:
    calls = [s for _, step in run.steps if isinstance(step, CallsStep) for s in step.steps]
    return [len(step.steps) for step in calls if isinstance(step, ChainStep)]


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("block", [8, 40])
def test_networks_whose_layers_take_turns(images: int, block: int) -> None:
    net, x = Bottlenecks(), torch.randn(images, 6, 20, 17)
    run = program(net, x, block=block)
    assert sum(chains(run)) >= (6 if images == 1 else 4)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):  # with more threads than images: one layer after the other
            torch.set_num_threads(count)
            x = torch.randn(images, 6, 20, 17)
            assert torch.allclose(run([x])[0], net(x), atol=1e-5)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["llvm-depthwise 4", "llvm-depthwise 3"])
def test_depthwise_layers_take_turns_by_rows(kernel: str) -> None:
    net, x = Inverted(), torch.randn(1, 3, 30, 27)
    run = program(net, x, block=20, depthwise=kernel)
    assert max(chains(run)) >= 3 and run.turns
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)


@torch.no_grad()
def test_without_turns_what_follows_each_other_is_one_call() -> None:
    net, x = Bottlenecks(), torch.randn(1, 6, 20, 17)
    run = program(net, x)
    sizes = [len(step.steps) for _, step in run.steps if isinstance(step, CallsStep)]
    assert sum(sizes) == 6 and max(sizes) >= 3 and not run.turns
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)


@torch.no_grad()
def test_tokens_take_turns() -> None:
    net, x = nn.Sequential(nn.Linear(5, 9), nn.GELU(), nn.Linear(9, 5)), torch.randn(2, 40, 5)
    run = program(net, x, block=16)
    assert chains(run) == [2]
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("net", [Bottlenecks, Mixed, Inverted, Signal])
@pytest.mark.parametrize("block", [0, 8])
def test_images_may_go_through_joined_steps_in_any_order(net: type[nn.Module], block: int) -> None:
    model = net().eval()
    size = {Signal: (4, 33), Bottlenecks: (6, 20, 17)}.get(net, (3, 40, 48))
    run = program(model, torch.randn(3, *size), block=block)
    joined = [s for _, s in run.steps if isinstance(s, CallsStep) and s.steps[0].images == 3]
    with using(1):
        for order in permutations(range(3)):
            for step in joined:
                ((code, table),) = step.rounds(1)
                step._rounds[1] = Rounds([(code, table[list(order)])])
            run.arena.disturb()
            x = torch.randn(3, *size)
            assert torch.allclose(run([x])[0], model(x), atol=1e-5), order


def test_memory_that_is_used_again_for_other_images_ends_a_call() -> None:
    step = (1000, 4000, 1000)
    assert not _mixed([step], [step, (4000, 7000, 1000), (1500, 4500, 1000)])
    assert _mixed([step], [(1000, 7000, 2000)])
    assert _mixed([step], [(2000, 5000, 1000)])
