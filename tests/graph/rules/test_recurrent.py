"""Fused steps of recurrent layers, as they run on GPUs; kernels for the CPU stand in here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from analysis import cuts, free
from torch import Tensor, nn

import secateur as sc
from secateur.graph import analyze

aten = torch.ops.aten
X = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))


def lstm_cell(
    inputs: Tensor, hidden: Tensor, c: Tensor, b: Tensor | None = None, d: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = inputs + hidden
    for bias in (b, d):
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * c + i * g
    return o * new.tanh(), new, torch.cat([i, f, g, o], 1)


def gru_cell(
    inputs: Tensor, hidden: Tensor, h: Tensor, b: Tensor | None = None, d: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    x, y = (inputs, hidden) if b is None or d is None else (inputs + b, hidden + d)
    (r, z, n), (s, u, m) = x.chunk(3, 1), y.chunk(3, 1)
    r, z = (r + s).sigmoid(), (z + u).sigmoid()
    new = (n + r * m).tanh()
    return (1 - z) * new + z * h, torch.cat([r, z, new, h, m], 1)


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    library.impl("_thnn_fused_lstm_cell", lstm_cell, "CPU")
    library.impl("_thnn_fused_gru_cell", gru_cell, "CPU")
    yield
    library._destroy()


class Fused(nn.Module):
    """What torch runs of an LSTM or a GRU on a GPU without cuDNN."""

    def __init__(self, kind: str, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.cell = getattr(nn, kind)(5, 8, bias=bias)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        cell = self.cell
        biases = (cell.bias_ih_l0, cell.bias_hh_l0) if cell.bias else ()
        h = c = x.new_zeros(x.shape[1], cell.hidden_size)
        for step in x:
            gates = step @ cell.weight_ih_l0.t(), h @ cell.weight_hh_l0.t()
            if self.kind == "LSTM":
                h, c, _ = aten._thnn_fused_lstm_cell(*gates, c, *biases)
            else:
                h, _ = aten._thnn_fused_gru_cell(*gates, h, *biases)
        return self.fc(h)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_hidden_units_are_free(kind: str, bias: bool) -> None:
    net = Fused(kind, bias)
    plain = net.cell(X)[0][-1]
    assert torch.allclose(net(X), net.fc(plain), atol=1e-6)  # it is what the layer computes
    graph = analyze(net, X)
    assert list(free(graph).values()) == [8]
    cuts(net, X, graph)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cut_and_repaired(kind: str) -> None:
    net, x = Fused(kind), torch.randn(6, 80, 5)
    cut, repaired = (
        sc.prune(net, x, data=[x], budget=sc.MACs("50%"), latency=False, recover=steps).model
        for steps in ([], [sc.Reconstruct()])
    )
    assert repaired.cell.hidden_size < 8
    with torch.no_grad():
        errors = [float((model(x) - net(x)).norm()) for model in (cut, repaired)]
    assert errors[1] < errors[0]


def steps(kind: str, x: Tensor, state: Any, weights: list[Tensor], layers: int) -> Any:
    """What `torch.lstm` and `torch.gru` run on a GPU without cuDNN: [time, batch, features]."""
    hidden, cells = (state, [None] * layers) if kind == "GRU" else state
    last, memories = [], []
    for layer in range(layers):
        (w, u, b, d), h, c = weights[4 * layer : 4 * layer + 4], hidden[layer], cells[layer]
        outputs = []
        for step in x.unbind(0):
            gates = step.matmul(w.t()), h.matmul(u.t())
            if kind == "LSTM":
                h, c, _ = aten._thnn_fused_lstm_cell(*gates, c, b, d)
            else:
                h, _ = aten._thnn_fused_gru_cell(*gates, h, b, d)
            outputs.append(h)
        x = torch.stack(outputs)
        last.append(h)
        memories.append(c)
    return (x, torch.stack(last), *([torch.stack(memories)] if kind == "LSTM" else []))


class Layers(nn.Module):
    """The layer itself, which makes its own state of zeros."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = getattr(nn, kind)(5, 8, num_layers=layers)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cell(x)[0])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers_with_a_state_of_zeros(
    kind: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Layers(kind, layers)
    plain = net(X)

    def run(x: Tensor, state: Any, weights: list[Tensor], biases: bool, n: int, *_: Any) -> Any:
        return steps(kind, x, state, weights, n)

    monkeypatch.setattr(f"torch.nn.modules.rnn._VF.{kind.lower()}", run)
    assert torch.allclose(net(X), plain, atol=1e-6)
    graph = analyze(net, X)
    assert set(free(graph).values()) == {8}
    cuts(net, X, graph)
