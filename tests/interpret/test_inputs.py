"""Which weights read the input, and which features reach the output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.batches import Call
from secateur.core.errors import UnsupportedModel
from secateur.interpret.inputs import Inputs


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(
    ("net", "x", "dim", "reader"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(9, 4), -1, "0"),
        (nn.Conv1d(4, 3, 3), torch.randn(5, 4, 8), 1, ""),
        (Series(), torch.randn(3, 7, 4), -1, "rnn"),
    ],
    ids=["table", "channels", "series"],
)
def test_readers_of_every_kind(net: nn.Module, x: Tensor, dim: int, reader: str) -> None:
    calls = [Call((x,), {})]
    found = Inputs.of(net, calls)
    assert (found.n, found.dim) == (4, dim)
    (name,) = found.readers
    assert name.startswith(reader)
    assert name.endswith(("weight", "weight_ih_l0"))
    assert torch.allclose(found.spread, x.double().movedim(dim, -1).flatten(0, -2).std(0))
    assert found.reaching(net, calls).all()
    with torch.no_grad():
        net.get_parameter(name)[:, 2] = 0
    assert found.read(net).tolist() == found.reaching(net, calls).tolist() == [
        True, True, False, True,
    ]  # fmt: skip


def test_a_path_that_ends_on_the_way_is_none() -> None:
    net, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)), torch.randn(6, 3)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        net[2].weight.copy_(torch.tensor([[1.0, 0.0]]))
    calls = [Call((x,), {})]
    found = Inputs.of(net, calls)
    assert found.read(net).tolist() == [True, True, True]
    assert found.reaching(net, calls).tolist() == [True, True, False]


def test_the_weakest_features_go_whole() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv1d(4, 5, 3), nn.Flatten(), nn.Linear(30, 2)), torch.randn(9, 4, 8)
    with torch.no_grad():
        net[0].weight[:, 1] *= 0.1
        x[:, 3] *= 0.01
    found = Inputs.of(net, [Call((x,), {})])
    result = sc.prune(
        net, x, unit=sc.Weight(), criterion=found.criterion(net), allocate="uniform",
        scope=sc.only(*found.readers), budget=sc.Sparsity(0.5), latency=False,
    )  # fmt: skip
    assert found.read(result.model).tolist() == [True, False, True, False]
    assert int((result.model[0].weight != 0).sum()) == 5 * 2 * 3


def test_what_has_no_features_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no weight reads"):
        Inputs.of(nn.Sequential(nn.Tanh(), nn.Linear(3, 2)), [Call((torch.randn(4, 3),), {})])
    with pytest.raises(UnsupportedModel, match="2 tensors"):
        Inputs.of(nn.Bilinear(2, 2, 1), [Call((torch.randn(4, 2), torch.randn(4, 2)), {})])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UnsupportedModel, match="12 features of an input with 4"):
        Inputs.of(flat, [Call((torch.randn(5, 3, 4),), {})])
