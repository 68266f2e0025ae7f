"""Layers and the depthwise convolutions behind them, whose planes in between are used in turns."""

from __future__ import annotations

import pytest
import torch
from tests.engine.nets import Inverted, program
from torch import Tensor, nn

from secateur.engine import pair
from secateur.engine.chain import CallsStep
from secateur.engine.pair import PairStep
from secateur.engine.program import Program
from secateur.runtime.emit.planes import available

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


def same_on_threads(run: Program, net: nn.Module, shape: tuple[int, ...]) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            x = torch.randn(shape)
            assert torch.allclose(run([x])[0], net(x), atol=1e-5)
    finally:
        torch.set_num_threads(threads)


def pairs(run: Program) -> list[PairStep]:
    calls = [s for _, step in run.steps if isinstance(step, CallsStep) for s in step.steps]
    return [step for step in calls if isinstance(step, PairStep)]


@torch.no_grad()
@pytest.mark.parametrize("near", [1, 6000, 1 << 20])
@pytest.mark.parametrize("images", [1, 2])
def test_planes_are_used_in_turns(images: int, near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "NEAR", near)
    net, shape = Inverted(), (images, 3, 30, 27)
    run = program(net, torch.randn(shape), depthwise="llvm-depthwise 4")
    assert len(pairs(run)) == (0 if near > 6000 else 2)
    for step in pairs(run):
        rows = step.calls(0)
        limits = rows[::2, 6:].tolist()  # every plane is made once
        assert [n for b, e in limits for n in range(b, e)] == list(range(step.steps[0].planes))
        assert len(set(rows[1::2, 1] + 4 * step._pitch * rows[1::2, 6])) == 1
    same_on_threads(run, net, shape)


class Stem(nn.Module):
    """The beginning of a residual network; twice: its first planes are read again."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.first, self.next = nn.Conv2d(3, 9, 7, 2, 3), nn.Conv2d(9, 5, 1)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        z = self.next(nn.functional.max_pool2d(y, 3, 2, 1))
        return z + y.mean() if self.twice else z


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["llvm-csr 2/1", "llvm-bcsr 4x3"])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("twice", [False, True])
def test_a_maximum_reads_planes_while_they_are_near(
    twice: bool, images: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "NEAR", 1)
    net, shape = Stem(twice), (images, 3, 46, 64)
    run = program(net, torch.randn(shape), kernel)
    assert len(pairs(run)) == (not twice)
    for step in pairs(run):
        ends = step.calls(0)[1::2, 5].tolist()
        assert ends[-1] == 9 and ends == step.calls(0)[::2, 7].tolist()
    same_on_threads(run, net, shape)


class Shared(nn.Module):
    """Planes that something else reads as well, or to which a residual is added, are no pair's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.each = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1, groups=8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        z = self.each[0](y) + y
        return self.each[2](self.each[1](torch.relu(z + self.b(z)))) * 2


@torch.no_grad()
def test_outputs_in_the_memory_of_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "NEAR", 1)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    x = torch.randn(1, 3, 16, 16)
    run = program(net, x, depthwise="llvm-depthwise 2")
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)
    assert not pairs(run)


@torch.no_grad()
def test_what_is_read_elsewhere_or_written_over_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "NEAR", 1)
    net, x = Shared(), torch.randn(1, 8, 16, 16)
    run = program(net, x, depthwise="llvm-depthwise 2")
    assert not pairs(run)  # the last one writes where the one before it reads
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)


class Wide(nn.Module):
    """Activations that emitted kernels have."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.each = nn.Conv2d(3, 22, 1), nn.Conv2d(22, 22, 3, 2, 1, groups=22)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(torch.relu(self.up(x)))


@torch.no_grad()
def test_kernels_that_make_several_planes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "NEAR", 1)
    for isa in available():
        net, x = Wide(), torch.randn(2, 3, 16, 16)
        for way in (f"emit-{isa.name} 4x2", f"emit-{isa.name}-loop 3/28672/4"):
            run = program(net, x, way, depthwise="llvm-depthwise 4")
            (step,) = pairs(run)
            assert step.calls(0)[::2, 6].tolist() == [0, 4, 8, 12, 16, 20]
            for count in (1, 4):
                torch.set_num_threads(count)
                assert torch.allclose(run([x])[0], net(x), atol=1e-5)
            torch.set_num_threads(1)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (3, 5), (17, 64), (30, 2)])
def test_images_that_are_too_small_for_depthwise_kernels(size: tuple[int, int]) -> None:
    net, x = Inverted(), torch.randn(2, 3, *size)
    run = program(net, x, depthwise="llvm-depthwise 4")
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)
