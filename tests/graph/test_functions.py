"""Sizes in the user's code: attributes and what is read off shapes follow, literals freeze."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import Between, attributes, cuts, free, frozen, line, tied
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def case(
    name: str,
    code: Any,
    expected: dict[str, int],
    followers: dict[str, str] | None = None,
    **more: Any,
) -> Any:
    return pytest.param(code, expected, followers or {}, more, id=name)


VIEW, HALVES = {"a.0": 2, "a.1": 4}, {"a.0": 3, "a.1": 5}
EVEN, WHOLE = {"a.0": 4, "a.1": 4}, {"a": 8}
FOLLOW = [
    # view
    case("view by attributes", lambda m, y: y.view(-1, m.h, m.d).sum(1), VIEW,
         {"h": "a.0", "d": "a.1"}, h=2, d=4, out=4),
    case("view by one attribute", lambda m, y: y.view(-1, m.h, y.shape[1] // m.h).sum(1), VIEW,
         {"h": "a.0"}, h=2, out=4),
    case("view by an attribute and a rest", lambda m, y: y.view(5, m.h, -1).sum(1), VIEW,
         {"h": "a.0"}, h=2, out=4),
    case("view by keywords", lambda m, y: y.reshape(shape=(5, m.h, m.d)).sum(1), VIEW,
         {"h": "a.0", "d": "a.1"}, h=2, d=4, out=4),
    case("unflatten", lambda m, y: y.unflatten(1, (m.h, -1)).sum(1), VIEW,
         {"h": "a.0"}, h=2, out=4),
    case("there and back", lambda m, y: y.view(-1, m.h, m.d).relu().reshape(y.shape), VIEW,
         {"h": "a.0", "d": "a.1"}, h=2, d=4),
    case("flatten", lambda m, y: y.view(-1, m.h, m.d).flatten(1), VIEW,
         {"h": "a.0", "d": "a.1"}, h=2, d=4),
    case("view_as", lambda m, y: y.view_as(y.relu()), {"a": 8}),
    # pieces
    case("split by a size in an attribute", lambda m, y: torch.add(*y.split(m.d, 1)), {"a": 4},
         {"d": "a"}, d=4, out=4),
    case("split by sizes in a list", lambda m, y: torch.cat(y.split(m.sizes, 1)[::-1], 1), HALVES,
         {"sizes.0": "a.0", "sizes.1": "a.1"}, sizes=[3, 5]),
    case("split by sizes in a tuple", lambda m, y: y.split(m.sizes, 1)[1], HALVES,
         {"sizes.0": "a.0", "sizes.1": "a.1"}, sizes=(3, 5), out=5),
    case("split by half the shape", lambda m, y: y.split(y.shape[1] // 2, 1)[0], EVEN, out=4),
    case("chunk", lambda m, y: torch.mul(*y.chunk(2, 1)), {"a": 4}, out=4),
    case("slices by attribute", lambda m, y: torch.cat([y[:, m.d :], y[:, : m.d]], 1), HALVES,
         {"d": "a.0"}, d=3),
    case("slices by half the shape", lambda m, y: y[:, : y.shape[1] // 2], EVEN, out=4),
    case("slice from the end", lambda m, y: y[:, -m.d :], HALVES, {"d": "a.1"}, d=5, out=5),
    case("narrow", lambda m, y: y.narrow(1, 0, m.d), HALVES, {"d": "a.0"}, d=3, out=3),
    case("every other", lambda m, y: y[:, ::2] * y[:, 1::2], {"a.0": 4}, out=4),
    # copies
    case("expand", lambda m, y: y[:, None].expand(-1, m.n, -1).flatten(1), {"a": 8, "b.0": 2},
         {"n": "b.0"}, n=2, out=16),
    case("repeat", lambda m, y: y.repeat(1, m.n), {"a": 8, "b.0": 2}, {"n": "b.0"}, n=2, out=16),
    case("repeat_interleave", lambda m, y: y.repeat_interleave(2, 1), {"a": 8}, out=16),
    # normalisations
    case("layer_norm by attribute", lambda m, y: F.layer_norm(y, (m.d,)), WHOLE, {"d": "a"}, d=8),
    case("layer_norm by shape", lambda m, y: F.layer_norm(y, y.shape[-1:]), {"a": 8}),
    case("rms_norm by attribute", lambda m, y: F.rms_norm(y, (m.d,)), WHOLE, {"d": "a"}, d=8),
    case("group_norm by attribute", lambda m, y: F.group_norm(y, m.g), VIEW, {"g": "a.0"}, g=2),
    # new tensors
    case("zeros by attribute", lambda m, y: y + torch.zeros(m.d), {"a": 8}, {"d": "a"}, d=8),
    case("zeros by shape", lambda m, y: y + torch.zeros(y.shape[1]), {"a": 8}),
    case("zeros_like", lambda m, y: torch.cat([y, torch.zeros_like(y)], 1), {"a": 8}, out=16),
    case("new_zeros", lambda m, y: y + y.new_zeros(y.size(-1)), {"a": 8}),
    case("full", lambda m, y: y * torch.full((m.d,), 2.0), {"a": 8}, {"d": "a"}, d=8),
]  # fmt: skip


@pytest.mark.parametrize(("code", "expected", "followers", "more"), FOLLOW)
def test_sizes_follow(
    code: Any, expected: dict[str, int], followers: dict[str, str], more: dict[str, Any]
) -> None:
    model = Between(code, **more)
    graph = analyze(model, X)
    assert free(graph) == expected
    found = {k: v for k, v in attributes(graph).items() if not k.startswith(("a.", "b."))}
    assert found == followers
    assert cuts(model, X, graph).keys() == expected.keys()


LITERAL = [
    case("view", lambda m, y: y.view(-1, 2, 4).sum(1), {}, out=4),
    case("view, one literal", lambda m, y: y.view(5, 2, -1).sum(1), {"a.1": 4}, out=4),
    case("split by a literal", lambda m, y: y.split(3, 1)[2], {"a.2": 2}, out=2),
    case("split by literals", lambda m, y: y.split([3, 5], 1)[1], {}, out=5),
    case("slice", lambda m, y: y[:, :3], {"a.1": 5}, out=3),
    case("layer_norm", lambda m, y: F.layer_norm(y, (8,)), {}),
    case("zeros", lambda m, y: y + torch.zeros(8), {}),
    case("one index", lambda m, y: torch.cat([y, y[:, 1:2] * y[:, 3][:, None]], 1), {}, out=9),
    case("roll", lambda m, y: y.roll(1, 1), {}),
    case("lookup", lambda m, y: y[:, [1, 0, 2]], {}, out=3),
    case("cumsum", lambda m, y: y.cumsum(1), {}),
    case("constant", lambda m, y: y * torch.arange(8), {}),
    case("constant made elsewhere", lambda m, y: y * X.new_tensor([1.0] * 8), {}),
]


@pytest.mark.parametrize(("code", "expected", "followers", "more"), LITERAL)
def test_literals_freeze_and_say_where(
    code: Callable[..., Any],
    expected: dict[str, int],
    followers: dict[str, str],
    more: dict[str, Any],
) -> None:
    model = Between(code, **more)
    graph = analyze(model, X)
    assert free(graph) == expected
    reasons = [a.frozen for a in graph.axes.values() if a.frozen and a.name.startswith("a")]
    assert line(code) in {reason.where for reason in reasons}
    cuts(model, X, graph)


def test_an_attribute_that_sizes_two_axes_ties_them() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d = 6
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            y, z = self.a(x), self.b(x)
            y, z = y.view(-1, self.d), z.view(-1, self.d)
            return self.c(torch.cat([y, z], 1))

    graph = analyze(Twice(), X)
    assert tied(graph) == [{"a": 1, "b": 1}]
    assert attributes(graph)["d"] in ("a", "b")
    cuts(Twice(), X)


def test_groups_of_a_convolution_follow() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1)
    )
    image = torch.randn(2, 3, 6, 6)
    graph = analyze(net, image)
    assert free(graph) == {"0.0": 4, "0.1": 2, "1.1": 3}
    assert attributes(graph)["1.groups"] == "0.0"
    assert net[1].groups == 4
    cuts(net, image, graph)


def test_depthwise_groups_follow_the_channels() -> None:
    net = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 2, 1))
    x = torch.randn(2, 3, 6)
    graph = analyze(net, x)
    assert free(graph) == {"0": 8} and attributes(graph)["1.groups"] == "0"
    cuts(net, x, graph)


def test_functional_groups_may_be_a_literal() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w = nn.Conv1d(3, 8, 1), nn.Parameter(torch.randn(6, 4, 3))
            self.b = nn.Conv1d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.conv1d(self.a(x), self.w, groups=2))

    x = torch.randn(2, 3, 6)
    graph = analyze(Net(), x)
    assert free(graph) == {"a.1": 4, "w.1": 3}
    assert frozen(graph, "w.0").where == line(Net.forward, 1)
    cuts(Net(), x)


def test_layer_norm_module_follows() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    graph = analyze(net, X)
    assert free(graph) == {"0": 8} and graph.axes["0"].statistical
    assert attributes(graph)["1.normalized_shape.0"] == "0"
    cuts(net, X, graph)


def test_a_value_used_as_a_number_stays() -> None:
    def scaled(m: Any, y: Tensor) -> Tensor:
        return y * m.d**-0.5 + y.view(-1, m.d)

    graph = analyze(Between(scaled, d=8), X)
    assert free(graph) == {}
    assert "its value enters the computation" in frozen(graph, "a").text
    assert frozen(graph, "a").where == line(scaled, 1)


def test_an_assertion_must_still_hold() -> None:
    def checked(m: Any, y: Tensor) -> Tensor:
        assert y.shape[1] == m.d and y.shape[1] % 2 == 0
        return y

    model = Between(checked, d=8)
    graph = analyze(model, X)
    assert free(graph) == {"a": 8} and attributes(graph)["d"] == "a"
    assert graph.ties[0].levels == (2, 4, 6, 8)
    cuts(model, X, graph)


def test_a_handler_that_fails_freezes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.graph.handlers import HANDLERS

    def broken(*_: Any) -> None:
        raise KeyError("what")

    monkeypatch.setitem(HANDLERS, Tensor.view, broken)
    graph = analyze(Between(lambda m, y: y.view(5, 8)), X)
    assert "the sizes passed to view could not be followed" in frozen(graph, "a").text
