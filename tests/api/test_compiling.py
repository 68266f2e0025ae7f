from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc


@torch.no_grad()
def test_it_always_gives_a_module_that_runs(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(3, 8)
    fast = sc.compile(net, x, cache=str(tmp_path))
    assert torch.allclose(fast(x), net(x), atol=1e-6)
    assert fast.report.name == "Sequential" and [row.name for row in fast.report.rows] == ["0"]
    assert "Sequential" in str(fast)


def test_no_example(tmp_path: Path) -> None:
    with pytest.raises(sc.errors.InputError):
        sc.compile(nn.Linear(2, 2), (), cache=tmp_path)


def test_other_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sc.errors.InputError, match="are on meta"):
        sc.compile(nn.Linear(2, 2).to("meta"), torch.zeros(1, 2, device="meta"), cache=tmp_path)
