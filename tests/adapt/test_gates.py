"""Choosing channels for every input: which, how well, and what stays."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from adapting import Recurrent, perceptron, residual
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import RecipeError


class Experts(nn.Module):
    """Half of the hidden units work for positive first inputs, the other half for negative ones."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.up, self.down = nn.Linear(6, 32), nn.Linear(32, 3)
        with torch.no_grad():
            self.up.weight.normal_(generator=draw).mul_(0.3)
            self.up.weight[:16, 0], self.up.weight[16:, 0] = 4.0, -4.0
            self.up.bias.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def data(count: int) -> Tensor:
    x = torch.randn(count, 6)
    x[:, 0] = x[:, 0].sign() * (1 + x[:, 0].abs())
    return x


def test_the_channels_that_matter_are_found() -> None:
    net, x = Experts().eval(), data(300)
    gated = sc.gate(net, x, keep=0.5, recover=False, only_faster=False)
    made = gated.gates["up"]
    for sign, units in ((1, range(16)), (-1, range(16, 32))):
        one = data(1)
        one[0, 0] = 2.0 * sign
        live = made.live(one).tolist()
        assert len(live) == 16
        assert len(set(live) & set(units)) >= 14
    assert gated.distance < 0.02


def test_least_squares_bring_outputs_closer() -> None:
    net, x = residual()
    before, after = (
        sc.gate(net, [x], keep=0.5, recover=recover, only_faster=False).distance
        for recover in (False, True)
    )
    assert after < before


@pytest.mark.parametrize("make", [residual, perceptron])
def test_single_samples_give_what_a_batch_gives(make: object) -> None:
    net, x = make()  # type: ignore[operator]
    gated = sc.gate(net, [x], keep=0.5, only_faster=False)
    with torch.no_grad():
        whole, alone = gated(x[:6]), torch.cat([gated(one) for one in x[:6].split(1)])
        assert torch.allclose(whole, alone, atol=1e-4)
        for other in (copy.deepcopy(gated), pickle.loads(pickle.dumps(gated))):
            assert torch.allclose(other(x[:6]), whole, atol=1e-6)
    state = gated.state_dict()
    again = sc.gate(net, [x.flip(0)], keep=0.5, only_faster=False)
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(again(x[:1]), gated(x[:1]), atol=1e-5)


def test_fewer_channels_are_computed() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net, x = residual()
    gated = sc.gate(net, [x], keep=0.5, only_faster=False)

    def work(model: nn.Module, batch: Tensor) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(batch)
        return counter.get_total_flops()

    with torch.no_grad():
        gated(x[:1])  # constants are there
    assert work(gated, x[:1]) < 0.9 * work(net, x[:1])
    assert work(gated, x[:4]) >= work(net, x[:4])


def test_what_is_printed() -> None:
    net, x = residual()
    gated = sc.gate(net, [x], only_faster=False)
    text = str(gated)
    assert "1 sample at a time" in text and "all channels are computed" in text
    assert "least squares" in text
    assert set(gated.times) >= {1}


def test_training_makes_it_better() -> None:
    pytest.importorskip("accelerate", reason="training uses Accelerate")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3))
    x = torch.randn(600, 6)
    with torch.no_grad():
        y = net(x)
    gated = sc.gate(net.eval(), x, keep=0.3, only_faster=False)
    new = torch.randn(300, 6)

    def error() -> float:
        with torch.no_grad():
            return float((gated(new) - net(new)).square().mean())

    before, gates = error(), gated.gates["0"].up.weight.clone()
    said = gated.fit((x, y), epochs=25, lr=3e-3)
    assert said in str(gated) and "held-out loss" in said
    assert error() < before
    assert not torch.equal(gates, gated.gates["0"].up.weight)
    assert not any(p.requires_grad for p in gated.parts.parameters())
    assert not gated.training


def test_the_model_stays_as_it_was() -> None:
    net, x = residual()
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kinds, state = [type(m) for m in net.modules()], torch.get_rng_state()
    gated = sc.gate(net, [x], only_faster=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert gated.training and [type(m) for m in net.modules()] == kinds
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in [*net.modules(), *gated.modules()])
    with torch.no_grad():
        net(x)


def test_layers_that_gain_nothing_are_left_out() -> None:
    net, x = perceptron()
    with pytest.raises(RecipeError, match="gain time"):
        sc.gate(net, [x])


class Written(nn.Module):
    """Its code knows how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.scale = torch.linspace(1, 2, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.two(torch.relu(self.one(x))))
        return self.three(h * self.scale[: self.three.in_features])


def test_code_that_knows_the_width_keeps_it() -> None:
    gated = sc.gate(Written(), torch.randn(60, 6), only_faster=False)
    assert "one" in gated.gates
    x = torch.randn(5, 6)
    with torch.no_grad():
        assert torch.allclose(gated(x), torch.cat([gated(one) for one in x.split(1)]), atol=1e-5)


def test_what_cannot_be_chosen_is_refused() -> None:
    net, x = perceptron()
    for keep in (0.0, 1.0, -1.0):
        with pytest.raises(RecipeError):
            sc.gate(net, [x], keep=keep)
    with pytest.raises(RecipeError, match="no channels"):
        sc.gate(Recurrent().eval(), torch.randn(40, 6, 5))
