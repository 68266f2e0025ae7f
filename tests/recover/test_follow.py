"""Results followed to where they are used: brought up to date, and asked what they lack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from repair_nets import unsettle
from torch import Tensor, nn

from secateur.graph.trace import decomposed
from secateur.recover.follow import Follow, Pending


class Net(nn.Module):
    """Two layers whose results are combined by a function."""

    def __init__(self, combine: Callable[..., Tensor], conv: bool = True) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 4, 1) if conv else nn.Linear(3, 4)
        self.mine = nn.Conv2d(3, 4, 3, padding=1, bias=False) if conv else nn.Linear(3, 4)
        self.bn = nn.BatchNorm2d(4)
        self.gamma = nn.Parameter(torch.tensor([0.5, 2.0, -1.0, 1e-6]))
        self.beta = nn.Parameter(torch.randn(4))
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self, self.other(x), self.mine(x))


def run(model: nn.Module, x: Tensor, stop: Callable[[Pending], Any], wait: bool = True) -> Tensor:
    with decomposed(), Follow(model, {("mine.weight", 0): wait}, stop) as follow:
        out = model(x)
        follow.finish()
    return out


def scaled(net: Net, a: Tensor, b: Tensor) -> Tensor:
    return torch.relu(a + b.permute(0, 2, 3, 1).mul(net.gamma).permute(0, 3, 1, 2))


CONV: dict[str, Callable[..., Tensor]] = {
    "plain sum": lambda net, a, b: torch.relu(a + b),
    "sum from the left": lambda net, a, b: torch.relu(b + a),
    "in place": lambda net, a, b: torch.relu(b.add_(a)),
    "in place on the other": lambda net, a, b: torch.relu(a.add_(b)),
    "norm": lambda net, a, b: a + net.bn(b),
    "norm and a number": lambda net, a, b: a + 0.5 * net.bn(b) / 3,
    "layer scale": scaled,
    "layer scale from the left": lambda net, a, b: a + net.gamma.view(4, 1, 1) * b,
    "views": lambda net, a, b: (a.flatten(2) + net.bn(b).view(len(b), 4, -1)).transpose(1, 2),
    "tokens": lambda net, a, b: a.flatten(2).transpose(1, 2) + b.flatten(2).transpose(1, 2),
    "dropout": lambda net, a, b: a + nn.functional.dropout(net.bn(b), 0.5, net.training),
}


@pytest.mark.parametrize("refreshed", [True, False])
@pytest.mark.parametrize("name", CONV)
def test_a_convolution_whose_weight_changes_soon_runs_once(name: str, refreshed: bool) -> None:
    net = unsettle(Net(CONV[name])).eval()
    new = torch.randn(net.mine.weight.shape)

    def stop(pending: Pending) -> None:
        assert pending.stale
        net.mine.weight.copy_(new)
        if refreshed:
            pending.refresh(net.mine.weight, None)

    x = torch.randn(2, 3, 5, 5)
    wanted = {("mine.weight", 0): True}
    with torch.no_grad():
        with decomposed(), Follow(net, wanted, stop, lambda slot: True) as follow:
            out = net(x)
            follow.finish()
        torch.testing.assert_close(out, net(x))


def test_a_branch_that_was_not_computed_yet_is_before_it_is_asked_for() -> None:
    net = unsettle(Net(CONV["norm"])).eval()
    others: dict[str, Tensor] = {}

    def stop(pending: Pending) -> None:
        other = pending.other_branch()
        assert other is not None
        others[pending.slot[0]] = other.clone()

    x = torch.randn(2, 3, 5, 5)
    wanted = {("mine.weight", 0): True, ("other.weight", 0): True}
    with torch.no_grad():
        with decomposed(), Follow(net, wanted, stop, lambda slot: True) as follow:
            out = net(x)
            follow.finish()
        torch.testing.assert_close(out, net(x))
        torch.testing.assert_close(others["other.weight"], net.bn(net.mine(x)))


@pytest.mark.parametrize("name", CONV)
def test_after_refresh_the_result_is_that_of_a_fresh_run(name: str) -> None:
    model = unsettle(Net(CONV[name]))
    x, new = torch.randn(2, 3, 5, 6), torch.randn(4, 3, 3, 3)
    stops: list[Pending] = []

    def stop(pending: Pending) -> None:
        stops.append(pending)
        pending.refresh(new, None)

    found = run(model, x, stop)
    assert len(stops) == 1
    with torch.no_grad():
        model.mine.weight.copy_(new)
        torch.testing.assert_close(found, model(x))


@pytest.mark.parametrize("name", CONV)
def test_what_the_other_branch_lacks_can_be_asked_of_the_layer(name: str) -> None:
    """Giving the layer the change of the other branch changes the sum by as much."""
    model = unsettle(Net(CONV[name]))
    with torch.no_grad():
        model.gamma[3] = 0.7  # of a channel that hardly counts nothing is asked
    x = torch.randn(2, 3, 5, 6)
    others: list[Tensor] = []

    def stop(pending: Pending) -> None:
        found = pending.other_branch()
        assert found is not None and found.shape == pending.use.out.shape
        others.append(found.clone())

    first = run(model, x, stop)
    with torch.no_grad():
        assert model.other.bias is not None
        model.other.bias.add_(0.3)
    second = run(model, x, stop)
    change = others[1] - others[0]

    def give(pending: Pending) -> None:
        with torch.no_grad():
            pending.use.out.sub_(change)
            for step in pending.chain:
                step.again()

    torch.testing.assert_close(run(model, x, give), first, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, second)


def test_nothing_is_asked_of_a_channel_that_hardly_counts() -> None:
    model = unsettle(Net(scaled))
    asked: list[Tensor | None] = []
    run(model, torch.randn(2, 3, 5, 6), lambda pending: asked.append(pending.other_branch()))
    assert asked[0] is not None and not bool(asked[0][:, 3].any())
    assert bool(asked[0][:, :3].any())


def shift(model: nn.Module, x: Tensor) -> Any:
    found: list[Any] = []
    run(model, x, lambda pending: found.append(pending.shift))
    return found[0]


def test_a_running_mean_can_take_a_bias() -> None:
    model = unsettle(Net(CONV["norm"]))
    x = torch.randn(2, 3, 5, 6)
    found = shift(model, x)
    assert found.tensor is model.bn.running_mean
    bias = torch.randn(4)
    with torch.no_grad():
        wanted = model.bn(model.mine(x) + bias[:, None, None])
        found.tensor.add_(bias, alpha=found.sign)
        torch.testing.assert_close(model.bn(model.mine(x)), wanted)


class Tokens(nn.Module):
    """A layer whose bias is added on its own, as `nn.Linear` does on memory out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.mine(x.transpose(0, 1)))


def test_a_bias_that_is_added_on_its_own_can_take_a_bias() -> None:
    model, x = Tokens().eval(), torch.randn(2, 5, 3)
    found = shift(model, x)
    assert found.tensor is model.mine.bias and found.sign == 1


class Swapped(nn.Module):
    """A norm over another dimension than the layer's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mine, self.bn = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.mine(x))


def test_a_norm_over_another_dimension_takes_no_bias() -> None:
    assert shift(unsettle(Swapped()), torch.randn(2, 4, 3)) is None
    assert shift(unsettle(Swapped()), torch.randn(2, 3)) is not None


ENDS: dict[str, Callable[..., Tensor]] = {
    "used twice": lambda net, a, b: b.mul(2) + b + a,
    "squared": lambda net, a, b: b * b + a,
    "added to itself": lambda net, a, b: b + b,
    "nonlinear": lambda net, a, b: a + torch.relu(b),
    "in-place nonlinear": lambda net, a, b: a + b.relu_(),
    "two of one": lambda net, a, b: a[:, :2] + b.chunk(2, 1)[0],
    "broadcast": lambda net, a, b: a.mean((2, 3), keepdim=True) + b,
    "weighted sum": lambda net, a, b: torch.add(a, b, alpha=2.0),
    "concatenated": lambda net, a, b: torch.cat([a, b], 1),
    "output": lambda net, a, b: b,
}


@pytest.mark.parametrize("name", ENDS)
def test_where_no_plain_sum_follows_nothing_is_asked(name: str) -> None:
    model = unsettle(Net(ENDS[name]))
    x, new = torch.randn(2, 3, 5, 6), torch.randn(4, 3, 3, 3)
    others: list[Any] = []

    def stop(pending: Pending) -> None:
        others.append(pending.other_branch())
        pending.refresh(new, None)

    found = run(model, x, stop)
    assert others == [None]
    with torch.no_grad():
        model.mine.weight.copy_(new)
        torch.testing.assert_close(found, model(x))


def test_in_a_post_norm_block_the_sum_comes_before_the_norm() -> None:
    model = Net(lambda net, a, b: nn.functional.layer_norm(a + b, [4], net.gamma), conv=False)
    x = torch.randn(7, 3)
    others: list[Any] = []
    run(model, x, lambda pending: others.append(pending.other_branch()))
    torch.testing.assert_close(others[0], model.other(x).detach())


def test_without_waiting_a_stop_comes_at_once() -> None:
    model = unsettle(Net(CONV["norm"]))
    lengths: list[int] = []
    run(model, torch.randn(1, 3, 4, 4), lambda pending: lengths.append(len(pending.chain)), False)
    run(model, torch.randn(1, 3, 4, 4), lambda pending: lengths.append(len(pending.chain)))
    assert lengths == [0, 1]


def test_calls_of_one_weight_are_counted() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Tanh(), layer, layer)
    found: list[Any] = []
    with decomposed(), Follow(model, None, lambda p: found.append((p.slot, p.number))):
        model(torch.randn(2, 3))
    assert found == [(("0.weight", 0), 0), (("0.weight", 0), 1), (("0.weight", 0), 2)]
