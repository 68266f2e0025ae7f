"""Training all levels of a dial together."""

from __future__ import annotations

import copy

import pytest
import torch
from adapting import Recurrent, residual
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.adapt import Dial
from secateur.adapt.fitting import Joint, apart
from secateur.core.errors import RecipeError

pytest.importorskip("accelerate", reason="training uses Accelerate")


def task(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which of two spirals a point is on, with two more numbers that mean nothing."""
    draw = torch.Generator().manual_seed(seed)
    turn = 6 * torch.rand(count, generator=draw)
    label = torch.randint(2, (count,), generator=draw)
    angle = turn + label * torch.pi
    x = torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 3
    return torch.cat([x, torch.randn(count, 2, generator=draw)], 1), label


def trained() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Linear(48, 48),
        nn.ReLU(),
        nn.Linear(48, 2),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x, y = task(1000, 1)
    for _ in range(120):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def losses(dial: Dial, x: Tensor, y: Tensor) -> list[float]:
    found = []
    for level in dial.levels:
        with torch.no_grad(), dial.at(level):
            found.append(float(cross_entropy(dial(x), y)))
    return found


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained()


def test_every_level_is_better_on_new_data(net: nn.Module) -> None:
    x, y = task(1000, 1)
    dial = sc.dial(net, data=[x], levels=[1.0, 0.15, 0.05])
    new = task(1000, 2)
    before, size = losses(dial, *new), dial.memory.stored
    said = dial.fit((x, y), epochs=12, lr=3e-3)
    after = losses(dial, *new)
    assert sum(after) < sum(before)
    assert all(b < a for a, b in zip(before[1:], after[1:], strict=True))
    assert after[0] < before[0] + 0.02
    assert "all levels trained together: held-out loss" in said[0] and said[0] in str(dial)
    assert dial.memory.stored <= size + 4 * 3 * 48 * 2  # own batch-norm statistics, no more


@pytest.mark.parametrize("make", [residual, lambda: (Recurrent().eval(), torch.randn(40, 6, 5))])
@torch.no_grad()
def test_levels_are_functions_of_the_dense_weights(make: object) -> None:
    model, x = make()  # type: ignore[operator]
    dial = sc.dial(model, data=[x], levels=[0.75, 0.5])
    joint = Joint(dial.dense, dial._levels()).eval()
    for level in dial.levels:
        joint.share = level
        with dial.at(level):
            assert torch.allclose(joint(x), dial(x), atol=1e-5)


def test_gradients_of_the_smallest_level_reach_the_dense_weights(net: nn.Module) -> None:
    dial = sc.dial(net, data=[task(100, 1)[0]], levels=[0.5])
    joint = Joint(dial.dense, dial._levels())
    joint.share = 0.5
    joint(task(50, 1)[0]).sum().backward()
    kept = dial.export(0.5)[0].out_features  # type: ignore[index]
    rows = joint.dense[0].weight.grad.abs().sum(1) > 0  # type: ignore[index]
    assert bool(rows[:kept].any()) and not bool(rows[kept:].any())
    assert all(p.grad is None for p in dial.parameters())


def test_without_labels_levels_learn_what_the_network_said(net: nn.Module) -> None:
    x = task(600, 1)[0]
    dial = sc.dial(net, data=[x], levels=[0.05])
    with torch.no_grad():
        wanted = net(x).softmax(1)

        def far() -> float:
            with dial.at(0.05):
                return float((dial(x).softmax(1) - wanted).abs().mean())

        before = far()
        dial.fit(x, epochs=8, lr=3e-3)
        assert far() < before


def test_what_does_not_help_changes_nothing(net: nn.Module) -> None:
    x, y = task(300, 1)
    dial = sc.dial(net, data=[x], levels=[0.5])
    before = {name: tensor.clone() for name, tensor in dial.state_dict().items()}
    (said,) = dial.fit((x, y), steps=3, lr=50.0, clip=None)
    assert "undone" in said
    assert all(torch.equal(before[name], tensor) for name, tensor in dial.state_dict().items())


def test_everything_else_is_as_before(net: nn.Module) -> None:
    x, y = task(200, 1)
    dial = sc.dial(net, data=[x], levels=[0.5])
    dial.train()
    flags = {name: p.requires_grad for name, p in dial.named_parameters()}
    original = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    dial.fit((x, y), steps=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert dial.training and {n: p.requires_grad for n, p in dial.named_parameters()} == flags
    assert all(p.grad is None for p in dial.parameters())
    assert all(torch.equal(original[name], tensor) for name, tensor in net.state_dict().items())


def test_copies_and_exports_run_what_was_trained(net: nn.Module) -> None:
    x, y = task(400, 1)
    dial = sc.dial(net, data=[x], levels=[0.5])
    with torch.no_grad(), dial.at(0.5):
        dial(x)  # unpacked, and to be forgotten
        dial.fit((x, y), epochs=4, lr=3e-3)
        again = copy.deepcopy(dial)
        with again.at(0.5):
            assert torch.equal(dial(x), again(x))
        assert torch.allclose(dial(x), dial.export(0.5)(x), atol=1e-6)


def test_what_makes_no_sense_is_refused(net: nn.Module) -> None:
    dial = sc.dial(net, data=[task(50, 1)[0]], levels=[0.5])
    for wrong in ({"middle": -1}, {"epochs": 0}, {"lr": -1.0}):
        with pytest.raises(RecipeError):
            dial.fit(task(50, 1), **wrong)  # type: ignore[arg-type]


def test_answers_are_classes_or_numbers() -> None:
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    wanted = (b.softmax(1) * (b.log_softmax(1) - a.log_softmax(1))).sum(1).mean()
    assert torch.allclose(apart(a, b, (a, torch.zeros(6, dtype=torch.long))), wanted)
    assert torch.allclose(apart(a, b, (a, torch.zeros(6, 3))), (a - b).square().mean())
    assert float(apart(a[:, 0], a[:, 0], a)) == 0.0
