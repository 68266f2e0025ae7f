"""Names and words for axes, as people read them off their own model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import analyze
from secateur.graph.graph import Graph
from secateur.graph.naming import trace_modules


def words(graph: Graph) -> dict[str, str]:
    return {axis.name: axis.what for axis in graph.axes.values() if axis.frozen is None}


def test_an_axis_is_named_after_what_produces_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 2))
    assert words(analyze(net, torch.zeros(2, 3, 6, 6))) == {"0": "filters"}


def test_hidden_units() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][-1])

    graph = analyze(Net(), torch.zeros(5, 2, 4))
    assert words(graph) == {"rnn.weight_ih_l0": "hidden units"}


def test_heads_and_head_dims() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Linear(5, 12), nn.Linear(12, 2)
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.embed(x)
            return self.out(y + self.attention(y, y, y)[0])

    graph = analyze(Net(), torch.zeros(2, 7, 5))
    heads = [axis for axis in graph.axes.values() if axis.head]
    assert [(axis.name, axis.n, axis.what) for axis in heads] == [
        ("attention.in_proj_weight.head", 3, "heads")
    ]
    assert graph.axes["attention.in_proj_weight.2"].what == "head dims"


def test_the_residual_stream() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(x).relu())

    net = nn.Sequential(nn.Linear(3, 8), Block(), Block(), nn.Linear(8, 2))
    assert words(analyze(net, torch.zeros(2, 3))) == {
        "0": "residual width", "1.up": "neurons", "2.up": "neurons",
    }  # fmt: skip


def test_names_are_unique_and_leave_off_weight() -> None:
    net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    graph = analyze(net, torch.zeros(2, 4, dtype=torch.long))
    assert list(graph.axes) == ["0", "0#2", "1", "2"]
    assert all(axis.name == name for name, axis in graph.axes.items())


def test_parameters_of_the_model_itself() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(4, 6))
            self.second = nn.Parameter(torch.randn(6, 2))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.first @ self.second

    assert words(analyze(Net(), torch.zeros(3, 4))) == {"first#2": "neurons"}


@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_goes_before_its_bias_and_its_consumer(bias: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 8, bias=bias), nn.Linear(8, 2))
    assert "0" in words(analyze(net, torch.zeros(2, 3)))


def test_modules_by_tensor() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    found = trace_modules(net)
    assert found["0.weight"] is net[0] and found["1.running_mean"] is net[1]
