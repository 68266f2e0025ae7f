from __future__ import annotations

import pytest
import torch
from tests.engine.nets import program
from torch import Tensor, nn

from secateur.engine.chain import CallsStep, apart
from secateur.engine.native import NativeStep

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Branches(nn.Module):
    """Parts, joins, views and outputs of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(4, 8, 1),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = self.a(x)
        first, second = y.split(4, 1)
        z = torch.cat([self.b(first), self.b(second * 2)], 1)[:, ::2]
        return z, y, self.c(y).amax((2, 3)), x.flatten(2)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["llvm-csr 2/1", "torch"])
def test_branches(kernel: str) -> None:
    net, x = Branches(), torch.randn(2, 4, 6, 7)
    run = program(net, x, kernel)
    for _ in range(2):
        x = torch.randn(2, 4, 6, 7)
        out, wanted = run([x]), net(x)
        for ours, theirs in zip(out, wanted, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert all(not any(b.holds(t) for b in run.arena.buffers) for t in out)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + torch.rand(8)


@torch.no_grad()
def test_random_numbers_are_drawn_in_every_run() -> None:
    x = torch.randn(16, 8)
    run = program(Noise(), x)
    assert not torch.equal(run([x])[0], run([x])[0])


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(8)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@torch.no_grad()
def test_a_chain_needs_two_buffers() -> None:
    net, x = Chain(), torch.randn(1, 4, 9, 9)
    run = program(net, x)
    assert torch.allclose(run([x])[0], net(x), atol=1e-6)
    assert len(run.arena.buffers) <= 3


class Sums(nn.Module):
    """Sums over what is not needed any more, is the input, is read later, is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(4, 4, 1) for _ in range(5))
        self.wide = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        x = x + self.b(self.wide(x))  # over x
        x = torch.relu(x + self.c(x))  # not over x, which is read
        y = x + self.d(self.wide(x))  # not over x, which is needed below
        z = y + self.e(x)  # not over y, which is given back
        return y, x[:, 1:] * z[:, 1:]


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["llvm-csr 2/1", "torch"])
@pytest.mark.parametrize("images", [1, 3])
def test_sums_are_written_over_what_is_not_read_again(kernel: str, images: int) -> None:
    net, x = Sums(), torch.randn(images, 4, 9, 8)
    run = program(net, x, kernel)
    for _ in range(2):
        x = torch.randn(images, 4, 9, 8)
        for ours, theirs in zip(run([x]), net(x), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    steps = [s for _, step in run.steps if isinstance(step, CallsStep) for s in step.steps]
    places = [step.calls(0)[0, 2:4].tolist() for step in steps]
    over = [out == residual for out, residual in places if residual]
    assert over == [True, False, False, False] or kernel == "torch"


class Pooled(nn.Module):
    """Means over planes, of both spellings, before and after which there are sparse layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.head = (
            nn.Conv2d(4, 6, 3, 1, 1),
            nn.Conv2d(6, 6, 1),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        scaled = y * self.gate(nn.functional.adaptive_avg_pool2d(y, 1)).sigmoid()
        return self.head(y.mean((-1, -2))), scaled.mean((2, 3), keepdim=True)


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["llvm-csr 2/1", "torch"])
def test_means_over_planes(kernel: str) -> None:
    net, x = Pooled(), torch.randn(2, 4, 7, 6)
    run = program(net, x, kernel)
    for _ in range(2):
        x = torch.randn(2, 4, 7, 6)
        for ours, theirs in zip(run([x]), net(x), strict=True):
            assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5)
    native = [step for step in apart(run.steps) if isinstance(step, NativeStep)]
    assert len(native) >= 2 * (kernel != "torch")
