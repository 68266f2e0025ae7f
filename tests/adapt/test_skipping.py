"""Layers that skip give what the same layers give with zeros in their inputs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from secateur.adapt.skipping import SkipLinear, Skipping, replace, skipper, sparse
from secateur.runtime.kernels import skip


class Conv1D(nn.Module):
    """As in transformers: the weight is `[in, out]`."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


LAYERS = {
    "linear": lambda: nn.Linear(40, 23),
    "no bias": lambda: nn.Linear(40, 23, bias=False),
    "flipped": lambda: Conv1D(23, 40),
}


@pytest.fixture(params=list(LAYERS))
def layer(request: pytest.FixtureRequest) -> nn.Module:
    return LAYERS[request.param]()


def lazy_of(layer: nn.Module, threshold: float) -> Skipping:
    found = skipper(copy.deepcopy(layer))
    assert found is not None
    found.thresholds[0] = threshold
    return found


@torch.no_grad()
def test_one_row_and_many_give_what_zeros_give(layer: nn.Module) -> None:
    lazy, x = lazy_of(layer, 0.6), torch.randn(5, 40)
    wanted = layer(torch.where(x.abs() > 0.6, x, torch.zeros(())))
    assert torch.allclose(lazy(x), wanted, atol=1e-5)
    rows = torch.cat([lazy(row) for row in x.split(1)])
    assert torch.allclose(rows, wanted, atol=1e-5)
    assert torch.allclose(lazy(x[0]), wanted[0], atol=1e-5)
    assert lazy(x[:1, None]).shape == (1, 1, 23)


@torch.no_grad()
def test_kernels_skip_what_is_not_read() -> None:
    if not skip.available():
        pytest.skip("no code can be made here")
    lazy = lazy_of(nn.Linear(3, 4), 1.0)
    lazy.weight[:, 1] = float("nan")  # type: ignore[index]
    assert bool(lazy(torch.tensor([[2.0, 0.5, -3.0]])).isfinite().all())
    lazy.kernels = False
    assert bool(lazy(torch.tensor([[2.0, 0.5, -3.0]])).isnan().all())


def test_other_types_and_gradients_take_the_ordinary_way() -> None:
    lazy, x = lazy_of(nn.Linear(6, 3), 0.5), torch.randn(1, 6)
    lazy(x).sum().backward()
    zeros = (x.abs() <= 0.5).expand(3, 6)
    assert bool((lazy.weight.grad[zeros] == 0).all()) and bool(lazy.weight.grad[~zeros].all())  # type: ignore[index]
    wide = copy.deepcopy(lazy).double()
    with torch.no_grad():
        assert torch.allclose(wide(x.double()).float(), lazy(x), atol=1e-6)


@torch.no_grad()
def test_copies_pickles_and_states(layer: nn.Module) -> None:
    lazy, x = lazy_of(layer, 0.4), torch.randn(1, 40)
    assert lazy.state_dict().keys() == layer.state_dict().keys()
    for other in (
        copy.deepcopy(lazy),
        pickle.loads(pickle.dumps(lazy)) if type(layer) is nn.Linear else lazy,
    ):
        assert torch.equal(other(x), lazy(x))
        assert other.weight_of(0).stride(0) == 1
    other = (
        lazy_of(LAYERS["linear"](), 0.4)
        if isinstance(lazy, SkipLinear) and layer.bias is not None
        else None
    )
    if other is not None:
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), lazy(x))


@torch.no_grad()
def test_a_layout_that_was_lost_is_no_error() -> None:
    lazy, x = lazy_of(nn.Linear(40, 23), 0.4), torch.randn(1, 40)
    before = lazy(x)
    lazy.weight.data = lazy.weight.data.contiguous()
    assert torch.allclose(lazy(x), before, atol=1e-6)


def test_values_that_are_no_numbers_stay() -> None:
    assert bool(sparse(torch.tensor([float("nan")]), 1.0).isnan())
    x = torch.randn(3)
    assert sparse(x, 0.0) is x


def test_only_known_kinds_are_replaced() -> None:
    class Own(nn.Linear):
        pass

    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Own(2, 2), nn.LSTM(2, 3, proj_size=2))
    assert list(replace(net, ["0", "1", "2", "3"])) == ["0"]
    assert type(net[0]) is SkipLinear and type(net[2]) is Own
