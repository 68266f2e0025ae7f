"""A planted circuit is found, and all that is said of it is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.core.errors import FileError, InputError
from secateur.interpret.circuit import Behaviour, Circuit


class Two(nn.Module):
    """Scores of three classes of task A and of three of task B."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu())


def right_a(output: Tensor, labels: Tensor) -> Tensor:
    return (output[:, :3].argmax(1) == labels).double()


def loss_a(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(batch[0])[:, :3], batch[1])


@pytest.fixture(scope="module")
def planted() -> tuple[Two, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1400, 12)
    a = (x[:, :6] @ torch.randn(6, 3)).argmax(1)
    b = (x[:, 6:] @ torch.randn(6, 3)).argmax(1)
    net = Two()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(15):
        for part in torch.randperm(1000).split(50):
            out = net(x[part])
            both = cross_entropy(out[:, :3], a[part]) + cross_entropy(out[:, 3:], b[part])
            both = both + 0.003 * sum(w.abs().sum() for w in net.parameters())  # each its own
            optimizer.zero_grad()
            both.backward()
            optimizer.step()
    return net.eval(), x, a, b


@pytest.fixture(scope="module")
def found(planted: tuple[Two, Tensor, Tensor, Tensor]) -> Circuit:
    net, x, a, _ = planted
    return sc.circuit(net, [(x[:1000], a[:1000])], right_a, loss=loss_a)


def test_task_a_stays_and_task_b_goes(
    planted: tuple[Two, Tensor, Tensor, Tensor], found: Circuit
) -> None:
    net, x, a, b = planted
    x, a, b = x[1000:], a[1000:], b[1000:]
    with torch.no_grad():
        whole = net(x)
        with found.only(net):
            alone = net(x)
        with found.without(net):
            rest = net(x)

    def share(scores: Tensor, labels: Tensor) -> float:
        return float((scores.argmax(1) == labels).double().mean())

    chance = float(b.bincount().max()) / len(b)
    assert share(whole[:, :3], a) > 0.9
    assert share(whole[:, 3:], b) > 0.9
    assert share(alone[:, :3], a) >= 0.95 * share(whole[:, :3], a)
    assert share(alone[:, 3:], b) <= chance + 0.08
    assert share(rest[:, :3], a) < share(alone[:, :3], a) - 0.2
    assert share(rest[:, 3:], b) > chance + 0.2
    assert found.share <= 0.6
    assert torch.equal(net(x), whole)


def test_what_is_said_is_measured(found: Circuit) -> None:
    seen = found.behaviour
    assert seen.samples == 500
    assert seen.faithfulness > 0.9
    assert seen.completeness > 0.5
    assert set(found.units) == {"one", "two"}
    kept = sum(map(len, found.units.values()))
    for name, effect in found.effects.items():
        outside = effect[torch.from_numpy(~found.keeps[name])]
        assert not bool(outside.any())
    assert found.passes > kept
    text = str(found)
    assert f"a circuit of {kept} of 48 units" in text
    assert "on 500 samples that it was not found on" in text


def test_it_is_drawn(found: Circuit, tmp_path: Path) -> None:
    kept = sum(map(len, found.units.values()))
    text = found.plot(tmp_path / "c.svg").read_text(encoding="utf-8")
    assert text.count("<circle") == 12 + kept + 6
    assert found.drawing.heads == ("inputs", "one", "two", "outputs")
    assert "<svg" in found._repr_html_()
    assert found.panel.drawing is found.drawing
    with pytest.raises(FileError, match="SVG"):
        found.plot(tmp_path / "c.png")
    with pytest.raises(FileError, match="cannot be written"):
        found.plot(tmp_path / "none" / "c.svg")


def test_one_class_of_many() -> None:
    torch.manual_seed(0)
    x = torch.randn(1000, 6)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    found = sc.circuit(net, [(x, net(x).argmax(1))], 1)
    assert found.behaviour.nothing == 0.5
    assert found.behaviour.faithfulness > 0.85
    assert 0 < found.share < 1


def test_what_makes_no_sense_is_refused() -> None:
    net, x = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 2)
    with pytest.raises(InputError, match="keep=0"):
        sc.circuit(net, [(x, torch.zeros(8).long())], keep=0)
    with pytest.raises(InputError, match="with all units"):
        sc.circuit(net, [(x, torch.zeros(8).long())], lambda out, y: out[:, 0] * 0)


def test_measures() -> None:
    seen = Behaviour(0.9, 0.8, 0.5, 0.4, 10)
    assert seen.faithfulness == pytest.approx(0.8)
    assert seen.completeness == pytest.approx(0.8)
