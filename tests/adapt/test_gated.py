"""The gated network as a module: runs, times, and what it says of itself."""

from __future__ import annotations

import torch
from torch import nn

import secateur as sc


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).eval()


def test_without_gates_it_is_the_network() -> None:
    model, x = net(), torch.randn(5, 6)
    gated = sc.gate(model, torch.randn(200, 6), keep=0.5, only_faster=False)
    assert not torch.allclose(gated(x), gated.model(x))  # only a run has its gates in force
    gated.use({})
    assert gated.gates == {}
    assert torch.equal(gated(x), gated.model(x))


def test_times_are_kept_by_the_number_of_samples() -> None:
    model, x = net(), torch.randn(200, 6)
    gated = sc.gate(model, x, keep=0.5, only_faster=False)
    gated.times.clear()
    gated.measure(model, x[:1], x[:4])
    assert set(gated.times) == {1, 4}
    assert all(dense.median_ms > 0 < own.median_ms for dense, own in gated.times.values())
    said = str(gated)
    assert "1 sample at a time: " in said
    assert "4 samples at a time: " in said and "all channels are computed" in said
    assert "all channels are computed" not in said.split("4 samples")[0]


def test_a_dotted_name_is_a_key() -> None:
    inner = nn.Sequential(nn.Linear(6, 32), nn.ReLU())
    gated = sc.gate(nn.Sequential(inner, nn.Linear(32, 3)), torch.randn(200, 6), only_faster=False)
    assert list(gated.gates) == ["0.0"]
    assert gated.widths["0.0"] == 32
