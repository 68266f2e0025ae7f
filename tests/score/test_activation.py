"""Scores by activations against the papers' formulas, on activations taken by hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.layout import Concat, Fixed, Leaf, Product
from secateur.core.site import Site, Slice
from secateur.measure.stats import Gather
from secateur.score import Facts, scores

NAMES = ("vbp", "activation", "flap", "wanda")


class Net(nn.Module):
    """Channels read by a grouped convolution, a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2)
        self.plain = nn.Conv2d(4, 3, 2)
        self.fc = nn.Linear(4 * 9, 5)
        self.kept: Tensor = torch.zeros(0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.relu(self.first(x))
        return self.grouped(y), self.plain(y), self.fc(y.flatten(1))


OUTER, INNER = Leaf("outer", 2), Leaf("inner", 2)
BOTH = Product((OUTER, INNER))
PARTS = (
    Slice("first.weight", 0, BOTH, "out"),
    Slice("grouped.weight", 1, INNER, "in"),
    Slice("plain.weight", 1, BOTH, "in"),
    Slice("fc.weight", 1, Product((BOTH, Fixed(9))), "in"),
)


def expected(net: Net, y: np.ndarray, name: str) -> np.ndarray:
    """A score of each of the four channels, by loops, before pooling to the inner leaf."""
    total = np.zeros(4)
    channel = [y[:, c].reshape(-1) for c in range(4)]
    for c in range(4):
        grouped = net.grouped.weight.detach().double().numpy()[3 * (c // 2) : 3 * (c // 2) + 3]
        readers = [
            (channel[c], grouped[:, c % 2].reshape(-1)),
            (channel[c], net.plain.weight.detach().double().numpy()[:, c].reshape(-1)),
        ]
        fc = net.fc.weight.detach().double().numpy().reshape(5, 4, 9)
        flat = y.reshape(len(y), 4, 9)
        readers += [(flat[:, c, p], fc[:, c, p]) for p in range(9)]
        for values, weights in readers:
            rms = np.sqrt(np.mean(values**2))
            total[c] += {
                "vbp": np.var(values),
                "activation": rms,
                "flap": np.var(values) * np.sum(weights**2),
                "wanda": rms * np.sum(np.abs(weights)),
            }[name]
    return total


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_formulas(name: str) -> None:
    torch.manual_seed(0)
    net = Net()
    x = torch.randn(12, 2, 3, 3)
    where = Site("inner", "channel", 2, PARTS)
    found = scores(name, [where], Facts.of(net), Gather(net, None, [x[:7], x[7:]]))["inner"]
    y = torch.relu(net.first(x)).detach().double().numpy()
    raw = expected(net, y, name).reshape(2, 2).sum(0)
    if name == "flap":
        raw = (raw - raw.mean()) / raw.std()
    assert found.numpy() == pytest.approx(raw, rel=1e-4)


def test_hidden_units_are_read_by_their_own_layer_and_the_next() -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({"rnn": nn.LSTM(2, 3, batch_first=True), "out": nn.Linear(3, 2)})
    net.forward = lambda x: net["out"](net["rnn"](x)[0])  # type: ignore[method-assign]
    leaf = Leaf("h", 3)
    gates = Concat((leaf,) * 4)
    parts = (
        Slice("rnn.weight_hh_l0", 0, gates, "out"),
        Slice("rnn.weight_hh_l0", 1, leaf, "in"),
        Slice("out.weight", 1, leaf, "in"),
    )
    x = torch.randn(4, 5, 2)
    where = Site("h", "channel", 3, parts)
    found = scores("vbp", [where], Facts.of(net), Gather(net, None, [x]))["h"]
    after = net["rnn"](x)[0].detach().double()
    before = torch.cat([torch.zeros(4, 1, 3), after[:, :-1]], 1)
    expected = sum(h.reshape(-1, 3).var(0, correction=0) for h in (before, after))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_what_nothing_reads_is_scored_by_weights_with_a_note(name: str) -> None:
    net = nn.Linear(2, 3)
    facts = Facts.of(net)
    where = Site("c", "channel", 3, (Slice("weight", 0, Leaf("c", 3), "out"),))
    found = scores(name, [where], facts, Gather(net, None, [torch.ones(2, 2)]))["c"]
    assert found.argsort().tolist() == scores("l1", [where], facts)["c"].argsort().tolist()
    assert facts.notes == [f"{name}: no linear operation reads c, scored by l1 instead"]


def test_flap_of_equal_indices_is_zero() -> None:
    net = nn.Linear(3, 2)
    where = Site("c", "channel", 3, (Slice("weight", 1, Leaf("c", 3), "in"),))
    found = scores("flap", [where], Facts.of(net), Gather(net, None, [torch.ones(4, 3)]))
    assert found["c"].tolist() == [0, 0, 0] and found.comparable


def test_blocks_keep_their_weights_sum() -> None:
    net = nn.ModuleDict({"block": nn.Linear(2, 3)})
    facts = Facts.of(net)
    where = Site("block", "layer", 1, module="block")
    net.forward = lambda x: net["block"](x)  # type: ignore[method-assign]
    for name in NAMES:
        found = scores(name, [where], facts, Gather(net, None, [torch.ones(2, 2)]))["block"]
        torch.testing.assert_close(found.float(), scores("l1", [where], facts)["block"])
    assert f"{NAMES[0]}: block is a block, scored by l1 instead" in facts.notes


class Odd(nn.Module):
    """A transposed convolution and a product with a matrix `[in, out]`."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)
        self.flipped = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.up(x), x.mean((2, 3)) @ self.flipped


def test_weights_that_lie_the_other_way() -> None:
    torch.manual_seed(0)
    net, leaf = Odd(), Leaf("c", 4)
    parts = (Slice("up.weight", 0, leaf, "in"), Slice("flipped", 0, leaf, "in"))
    x = torch.randn(6, 4, 3, 3)
    where = Site("c", "channel", 4, parts)
    found = scores("wanda", [where], Facts.of(net), Gather(net, None, [x]))["c"]
    up, flipped = (w.detach().double().abs() for w in (net.up.weight, net.flipped))
    wide = x.double()
    expected = wide.square().mean((0, 2, 3)).sqrt() * up.sum((1, 2, 3))
    expected += wide.mean((2, 3)).square().mean(0).sqrt() * flipped.sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
