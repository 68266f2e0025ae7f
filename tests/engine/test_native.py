from __future__ import annotations

import pytest
import torch
from tests.engine.test_program import program
from torch import nn

from secateur.engine.chain import apart
from secateur.engine.native import NativeStep

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


@torch.no_grad()
@pytest.mark.parametrize("size", [(12, 16), (13, 16), (12, 17), (6, 6)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_strides(size: tuple[int, int], kernel: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, kernel, 2, kernel // 2))
    x = torch.randn(2, 3, *size)
    run = program(net, x)
    native = any(isinstance(step, NativeStep) for step in apart(run.steps))
    assert native == (size[1] % 2 == 0 and size[1] >= 8)
    for given in (x, x.to(memory_format=torch.channels_last)):
        assert torch.allclose(run([given])[0], net(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(12, 16), (13, 16), (12, 15)])
def test_pooling(size: tuple[int, int]) -> None:
    net = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, *size)
    run = program(net, x)
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)
    last = x.to(memory_format=torch.channels_last)
    assert torch.allclose(run([last])[0], net(x), atol=1e-5)


@torch.no_grad()
def test_layer_norm_between_linear_layers() -> None:
    net = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 5))
    x = torch.randn(3, 7, 6)
    run = program(net, x)
    assert any(isinstance(step, NativeStep) for step in apart(run.steps))
    assert torch.allclose(run([x])[0], net(x), atol=1e-5)
