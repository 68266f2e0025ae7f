"""Recurrent models: hidden units across gates, steps, layers and directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from analysis import cuts, free, tied
from torch import Tensor, nn

from secateur.graph import analyze

T = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))


class Sequence(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        directions = 1 + options.get("bidirectional", False)
        self.stem = nn.Linear(5, 6)
        self.rnn = kind(6, 8, batch_first=True, **options)
        self.head = nn.Linear((options.get("proj_size") or 8) * directions, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.stem(x))[0])


RECURRENT: list[Any] = [
    pytest.param(nn.RNN, {}, {"stem": 6, "rnn.weight_ih_l0": 8}, id="rnn"),
    pytest.param(nn.RNN, {"nonlinearity": "relu"}, {"stem": 6, "rnn.weight_ih_l0": 8}, id="relu"),
    pytest.param(nn.GRU, {}, {"stem": 6, "rnn.weight_ih_l0": 8}, id="gru"),
    pytest.param(nn.LSTM, {}, {"stem": 6, "rnn.weight_ih_l0": 8}, id="lstm"),
    pytest.param(nn.LSTM, {"bias": False}, {"stem": 6, "rnn.weight_ih_l0": 8}, id="no bias"),
    pytest.param(
        nn.LSTM, {"num_layers": 2},
        {"stem": 6, "rnn.weight_ih_l0": 8, "rnn.weight_ih_l1": 8}, id="two layers",
    ),
    pytest.param(
        nn.GRU, {"bidirectional": True},
        {"stem": 6, "rnn.weight_ih_l0": 8, "rnn.weight_ih_l0_reverse": 8}, id="two ways",
    ),
    pytest.param(
        nn.LSTM, {"proj_size": 4},
        {"stem": 6, "rnn.weight_ih_l0": 8, "rnn.weight_hr_l0": 4}, id="projection",
    ),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("kind", "options", "expected"), RECURRENT)
def test_recurrent_layers(kind: Any, options: dict[str, Any], expected: dict[str, int]) -> None:
    model = Sequence(kind, **options)
    graph = analyze(model, T)
    assert free(graph) == expected
    cuts(model, T, graph)


def test_layers_of_a_stack_keep_one_size() -> None:
    graph = analyze(Sequence(nn.LSTM, num_layers=2), T)
    assert tied(graph) == [{"rnn.weight_ih_l0": 1, "rnn.weight_ih_l1": 1}]


@pytest.mark.parametrize("length", [1, 2])
def test_short_sequences_are_enough(length: int) -> None:
    graph = analyze(Sequence(nn.LSTM), T[:, :length])
    assert graph.layouts["rnn.weight_hh_l0"][1].to_json() == "rnn.weight_ih_l0"
    assert graph.layouts["rnn.weight_hh_l0"][0].to_json() == {"concat": ["rnn.weight_ih_l0"] * 4}


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize("steps", [1, 3])
def test_cells(cell: Any, steps: int) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = cell(5, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for t in range(steps):
                state = self.cell(x[:, t], state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    model = Loop()
    graph = analyze(model, T)
    assert free(graph) == {"cell.weight_ih": 8}
    cuts(model, T, graph)


def test_packed_sequences() -> None:
    class Packed(Sequence):
        def forward(self, x: Tensor) -> Tensor:
            lengths = torch.tensor([7, 5, 2])
            packed = nn.utils.rnn.pack_padded_sequence(self.stem(x), lengths, batch_first=True)
            out, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
            return self.head(out)

    model = Packed(nn.LSTM)
    assert free(analyze(model, T)) == {"stem": 6, "rnn.weight_ih_l0": 8}
    cuts(model, T)
