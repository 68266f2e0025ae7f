"""Compiling for GPUs: layers that are looked at, and what is said where nothing is gained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.engine.gpu import compile_gpu


class Own(nn.Linear):
    """A class of its own, which may do something else with its weight."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.own = nn.Conv2d(4, 8, 1), nn.Linear(8, 8), Own(8, 3)
        self.unused = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.fc(self.conv(x).mean((2, 3))))


def test_nothing_to_gain_without_a_gpu(tmp_path: Path) -> None:
    """The layers are timed where they are: here on the CPU, which has no such kernels."""
    net = Net().eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fast = compile_gpu(net, as_call(net, torch.randn(2, 4, 5, 5)), tmp_path)
    assert fast.network is net
    assert not fast.report.fast
    assert [(row.name, row.kind, row.kernel) for row in fast.report.rows] == [
        ("conv", "conv 1x1", "torch"), ("fc", "linear", "torch"),
    ]  # fmt: skip
    assert {row.why for row in fast.report.rows} == {"2:4 kernels need a CUDA GPU"}
    assert "nothing to gain" in str(fast)
    assert fast.report.bytes == fast.report.dense_bytes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.fc._forward_pre_hooks
    assert list(tmp_path.iterdir())
