"""Edges: cut as if the one that reads saw a mean, and estimated by exact first-order effects."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, linear

import secateur as sc
from secateur.core.batches import Call
from secateur.interpret.ablate import Cut, Places
from secateur.interpret.edges import edge_attributions, edges_of


class Turned(nn.Module):
    """Weights that are used as they lie, turned, and by a convolution with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.flat = nn.Parameter(torch.randn(3, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.next(self.conv(x).relu()).relu().mean((2, 3))
        return self.head((x @ self.flat).tanh())


def made(seed: int = 0) -> tuple[Turned, Tensor, Places]:
    torch.manual_seed(seed)
    net, x = Turned().eval(), torch.randn(6, 2, 5, 5)
    call = Call((x,), {})
    return net, x, Places.of(net, call, [call])


def by_hand(net: Turned, x: Tensor, gates: dict[str, Tensor], means: dict[str, Tensor]) -> Tensor:
    """The network with every entry of its weights times a gate, the rest reading means."""

    def centred(value: Tensor, name: str) -> Tensor:
        return value - means[name].float().view(1, -1, *[1] * (value.dim() - 2))

    h = net.conv(x).relu()
    lost = conv2d(centred(h, "next.weight"), net.next.weight * (1 - gates["next.weight"]),
                  padding=1)  # fmt: skip
    h = (net.next(h) - lost).relu().mean((2, 3))
    y = h @ net.flat - centred(h, "flat") @ (net.flat * (1 - gates["flat"]))
    h = y.tanh()
    lost = linear(centred(h, "head.weight"), net.head.weight * (1 - gates["head.weight"]))
    return net.head(h) - lost


def gates_of(net: Turned) -> dict[str, Tensor]:
    names = ("next.weight", "flat", "head.weight")
    return {name: torch.ones_like(net.get_parameter(name)) for name in names}


def test_every_weight_between_units_is_an_edge() -> None:
    net, _, places = made()
    with torch.no_grad():
        net.head.weight[0, 3] = 0
    edges = edges_of(net, places)
    assert {name: len(e.pairs) for name, e in edges.items()} == {
        "next.weight": 12, "flat": 15, "head.weight": 9,
    }  # fmt: skip
    keeps = places.full()
    (site,) = edges["flat"].reader.layout.names
    keeps[site][1] = False
    fewer = edges_of(net, places, keeps)
    assert {name: len(e.pairs) for name, e in fewer.items()} == {
        "next.weight": 8, "flat": 10, "head.weight": 9,
    }  # fmt: skip


def test_cut_edges_read_the_mean() -> None:
    net, x, places = made(1)
    edges, gates, cuts = edges_of(net, places), gates_of(net), dict[str, Cut]()
    for name, item in edges.items():
        lost = torch.rand(len(item.pairs)) < 0.5
        cuts[name] = item.cut(lost.numpy())
        gates[name] = gates[name] * ~cuts[name].where
        kept = (gates[name] != 0).flatten(2).all(-1) if gates[name].dim() > 2 else gates[name] != 0
        assert int((~kept).sum()) == int(lost.sum())
    means = {name: item.reader.mean for name, item in edges.items()}
    with torch.no_grad():
        before = net(x)
        with places.only(net, places.full(), cuts):
            found = net(x)
        assert torch.allclose(found, by_hand(net, x, gates, means), atol=1e-5)
        assert torch.equal(net(x), before)


def test_estimates_are_slopes_of_gates() -> None:
    net, x, places = made(2)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    edges, gates = edges_of(net, places), gates_of(net)
    first = {name: torch.rand(len(item.pairs)) < 0.3 for name, item in edges.items()}
    cuts = {name: edges[name].cut(lost.numpy()) for name, lost in first.items()}
    found = edge_attributions(
        net, places, [(x, y)], lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        places.full(), edges, cuts,
    )  # fmt: skip
    means = {name: item.reader.mean for name, item in edges.items()}
    for name in gates:
        gates[name] = (gates[name] * ~cuts[name].where).requires_grad_()
    loss = cross_entropy(by_hand(net, x, gates, means), y)
    slopes = dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))
    for name, item in edges.items():
        slope = slopes[name] if item.reader.dim == 1 else slopes[name].t()
        wanted = item.pooled(slope.double().reshape(*slope.shape[:2], -1).sum(2)).abs()
        assert torch.allclose(found[name], wanted, rtol=1e-3, atol=1e-6), name


def test_a_planted_path_is_found() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.mul_(0.02)  # everything is wired, and weakly
            layer.bias.zero_()
        net[0].weight[2, 0], net[0].weight[5, 0] = 2.0, -2.0
        net[2].weight[1, 2], net[2].weight[6, 5] = 1.5, 1.5
        net[4].weight[1, 1], net[4].weight[0, 6] = 1.0, 1.0
    x = torch.randn(600, 6)
    found = sc.circuit(net, [(x, (x[:, 0] > 0).long())], edges=True)
    assert found.total is not None
    assert found.total[1] == 8 * 8 + 2 * 8
    assert found.total[0] <= 4
    entries = {name: where.nonzero().tolist() for name, where in found.edges.items()}
    assert sum(map(len, entries.values())) == found.total[0]
    assert set(map(tuple, entries["2.weight"])) <= {(1, 2), (6, 5)}
    assert set(map(tuple, entries["4.weight"])) <= {(1, 1), (0, 6)}
    seen = found.behaviour
    assert seen.faithfulness > 0.9
    assert seen.completeness > 0.5
    text = str(found)
    assert f"edges: {found.total[0]} of 80 edges between units" in text
    assert "without its edges" in text
    inner = [e for e in found.drawing.edges if e.start[0] > 0]
    assert len(inner) == found.total[0]
    with torch.no_grad():
        whole = net(x)
        with found.only(net):
            alone = net(x)
        with found.without(net):
            rest = net(x)
    right = (x[:, 0] > 0).long()
    shares = [float((out.argmax(1) == right).double().mean()) for out in (whole, alone, rest)]
    assert shares[1] > 0.9
    assert shares[2] < shares[1] - 0.2
    assert shares[0] == pytest.approx(seen.whole, abs=0.05)
