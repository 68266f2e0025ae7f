from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.engine.capture import capture
from secateur.engine.fuse import fuse
from secateur.engine.recurrence import Recurrence, Steps

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


class Net(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("rnn", "kind"),
    [
        (nn.LSTM(3, 8, 2, bidirectional=True), "lstm both ways 2x8"),
        (nn.GRU(3, 8, batch_first=True, bias=False), "gru 1x8"),
        (nn.RNN(3, 8, nonlinearity="relu"), "rnn_relu 1x8"),
    ],
)
def test_both_ways_of_running(rnn: nn.Module, kind: str) -> None:
    net, x = Net(rnn).eval(), torch.randn(4, 2, 3)
    graph = fuse(capture(net, as_call(net, x)))
    (layer,) = graph.layers.values()
    assert isinstance(layer, Recurrence) and layer.kind == kind and layer.label == "rnn"
    assert layer.numel == sum(p.numel() for p in rnn.parameters())
    batch = x.shape[0] if layer.batch_first else x.shape[1]
    states = torch.zeros(layer.layers * (2 if layer.both else 1), batch, 8)
    given = [states, states] if layer.cell == "lstm" else states
    wanted = rnn(x)[0]
    for sparse in (True, False):
        out, *last = Steps(layer, sparse)(x, given)
        assert torch.allclose(out, wanted, atol=1e-6)
        assert len(last) == (2 if layer.cell == "lstm" else 1)


def test_projections_stay_with_torch() -> None:
    net, x = Net(nn.LSTM(3, 8, proj_size=4)).eval(), torch.randn(4, 2, 3)
    assert not fuse(capture(net, as_call(net, x))).layers
