"""Times of layers at densities: which there are, and that they are what the kernels take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.engine import prices as module
from secateur.engine.capture import capture
from secateur.engine.decide import Decision
from secateur.engine.prices import prices
from secateur.units import weight_sites
from secateur.units.pattern import Pattern

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 16, 3), nn.LSTM(16, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(self.conv(x).transpose(1, 2))[0][:, -1])


def test_every_layer_at_every_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net().eval()
    call, sites = as_call(net, torch.randn(1, 4, 12)), weight_sites(net, None)
    seen: list[float] = []
    real = module.decide

    def watched(graph, shapes, known):  # type: ignore[no-untyped-def]
        found: dict[str, Decision] = real(graph, shapes, known)
        seen.append(max(layer.density for layer in graph.layers.values()))
        return found

    monkeypatch.setattr(module, "decide", watched)
    found = prices(net, call, capture(net, call), sites, Pattern(), (0.1, 0.5), tmp_path)
    assert found.layers == {
        "conv": ("conv.weight",), "fc": ("fc.weight",),
        "lstm": ("lstm.weight_ih_l0", "lstm.weight_hh_l0"),
    }  # fmt: skip
    assert found.densities == (0.1, 0.5, 1.0)
    assert seen == pytest.approx([0.1, 0.5, 1.0], abs=0.05)
    for times in found.ms.values():
        assert len(times) == 3
        assert min(times) > 0
    assert found.rest_ms >= 0
    assert found.whole_ms > 0
    assert list(tmp_path.iterdir())  # the second time it is quick
