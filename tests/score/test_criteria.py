"""Criteria against plain loops over slices, and what they refuse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError, RecipeError
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.core.site import Role, Site, Slice
from secateur.measure.stats import Gather
from secateur.score import Criterion, Facts, criteria, criterion, resolve, scores

H, C, HEADS, DIM = Leaf("h", 3), Leaf("c", 4), Leaf("heads", 2), Leaf("dim", 3)


class Net(nn.Module):
    """A convolution with norm, a GRU, and a linear layer over heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.next = nn.Conv2d(4, 5, 1)
        self.rnn = nn.GRU(5, 3)
        self.fc = nn.Linear(3, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 2, 4, 4] -> [N, 2]."""
        y = self.next(torch.relu(self.norm(self.conv(x)))).flatten(2).permute(2, 0, 1)
        return self.out(torch.tanh(self.fc(self.rnn(y)[0][-1])))


def site(leaf: Leaf, *slices: tuple[str, int, Layout, Role]) -> Site:
    return Site(leaf.name, "channel", leaf.n, tuple(Slice(*each) for each in slices))


GATES, INNER = Concat((H, H, H)), Product((HEADS, DIM))
CONV = site(
    C,
    ("conv.weight", 0, C, "out"), ("conv.bias", 0, C, "out"),
    ("norm.weight", 0, C, "scale"), ("norm.bias", 0, C, "shift"),
    ("norm.running_mean", 0, C, "buffer"), ("next.weight", 1, C, "in"),
)  # fmt: skip
RNN = site(
    H,
    ("rnn.weight_ih_l0", 0, GATES, "out"), ("rnn.weight_hh_l0", 0, GATES, "out"),
    ("rnn.bias_ih_l0", 0, GATES, "out"), ("rnn.bias_hh_l0", 0, GATES, "out"),
    ("rnn.weight_hh_l0", 1, H, "in"), ("fc.weight", 1, H, "in"),
)  # fmt: skip
HEAD = site(
    HEADS,
    ("fc.weight", 0, INNER, "out"), ("fc.bias", 0, INNER, "out"), ("out.weight", 1, INNER, "in"),
)  # fmt: skip
SITES = [CONV, RNN, HEAD]
NAMES = {"random", "l1", "l2", "magnitude", "group_l2", "bn_scale", "taylor", "taylor_squared"}
BLOCK = Site("rnn", "layer", 1, module="rnn")


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.norm.weight.uniform_(-1, 1)
        net.norm.bias.uniform_(-1, 1)
        net.norm.running_var.uniform_(0.5, 2)
    return net.eval()


def by_hand(
    where: Site, tensors: Mapping[str, Tensor], wanted: Callable[[Slice, Tensor], bool],
    element: Callable[[Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """Sum over what every index owns, position by position."""
    total = torch.zeros(where.n, dtype=torch.float64)
    for part in where.slices:
        if wanted(part, tensors[part.tensor]):
            values = element(tensors[part.tensor]).double()
            owner = part.layout.coordinate(where.name)
            for position in range(values.shape[part.dim]):
                if owner[position] >= 0:
                    total[owner[position]] += values.select(part.dim, position).sum()
    return total


def producing(part: Slice, tensor: Tensor) -> bool:
    return part.role == "out" and tensor.dim() > 1


def grouped(part: Slice, tensor: Tensor) -> bool:
    return part.role in ("in", "scale") or producing(part, tensor)


@pytest.mark.parametrize("where", SITES, ids=lambda s: s.name)
def test_norms_agree_with_loops(net: nn.Module, where: Site) -> None:
    facts = Facts.of(net)
    l1 = by_hand(where, facts.tensors, producing, torch.abs)
    l2 = by_hand(where, facts.tensors, producing, torch.square)
    group = by_hand(where, facts.tensors, grouped, torch.square)
    names = ("l1", "magnitude", "l2", "group_l2")
    found = {name: scores(name, [where], facts)[where.name].double() for name in names}
    torch.testing.assert_close(found["l1"], l1, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["magnitude"], l1, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["l2"], l2.sqrt(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["group_l2"], group / group.mean(), rtol=1e-5, atol=1e-6)
    assert facts.notes == []


def test_a_filter_s_l1_norm_is_numpy_s(net: nn.Module) -> None:
    weight = net.conv.weight.detach().numpy()
    expected = abs(weight).reshape(4, -1).sum(1)
    assert scores("l1", [CONV], Facts.of(net))["c"].numpy() == pytest.approx(expected)


def test_magnitude_without_producing_weights_uses_all_there_is(net: nn.Module) -> None:
    bare = site(C, ("norm.weight", 0, C, "scale"), ("norm.bias", 0, C, "shift"))
    expected = (net.norm.weight.abs() + net.norm.bias.abs()).detach()
    torch.testing.assert_close(scores("l1", [bare], Facts.of(net))["c"], expected)


def test_bn_scale_is_gamma_and_says_when_there_is_none(net: nn.Module) -> None:
    facts = Facts.of(net)
    found = scores("bn_scale", [CONV, HEAD], facts)
    torch.testing.assert_close(found["c"], net.norm.weight.detach().abs())
    torch.testing.assert_close(found["heads"], scores("l1", [HEAD], facts)["heads"])
    assert facts.notes == ["bn_scale: heads has no normalisation, scored by l1 instead"]


def test_a_shared_norm_scale_adds_up(net: nn.Module) -> None:
    where = site(C, ("norm.weight", 0, C, "scale"), ("norm.bias", 0, C, "scale"))
    expected = (net.norm.weight.abs() + net.norm.bias.abs()).detach()
    torch.testing.assert_close(scores("bn_scale", [where], Facts.of(net))["c"], expected)


def test_group_l2_of_zeros_is_zero() -> None:
    where = site(C, ("w", 0, C, "out"))
    assert scores("group_l2", [where], Facts({"w": torch.zeros(4, 2)}))["c"].tolist() == [0] * 4


def test_random_is_its_own(net: nn.Module) -> None:
    state = torch.get_rng_state()
    both = scores("random", SITES, Facts.of(net, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    alone = scores("random", [HEAD], Facts.of(net, seed=3))
    assert torch.equal(alone["heads"], both["heads"])
    assert not torch.equal(both["c"][:3], both["h"])
    assert not torch.equal(scores("random", [CONV], Facts.of(net, seed=4))["c"], both["c"])
    assert float(both["c"].min()) >= 0 and float(both["c"].max()) < 1


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(6, 2, 4, 4, generator=generator),
            torch.randint(0, 2, (6,), generator=generator),
        )
        for _ in range(3)
    ]


@pytest.mark.parametrize(
    ("name", "last"), [("taylor", torch.abs), ("taylor_squared", torch.square)]
)
def test_taylor_takes_the_mean_last(
    net: nn.Module, name: str, last: Callable[[Tensor], Tensor]
) -> None:
    expected = {where.name: torch.zeros(where.n, dtype=torch.float64) for where in SITES}
    block = torch.zeros(1, dtype=torch.float64)
    for x, y in batches():
        net.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        products = {n: (p.grad * p).detach() for n, p in net.named_parameters()}
        for where in SITES:
            signed = by_hand(
                where,
                {**products, "norm.running_mean": torch.zeros(4)},
                lambda part, _: part.role == "in",
                lambda product: product,
            )
            expected[where.name] += last(signed) / 3
        block += last(sum(p.sum() for n, p in products.items() if n.startswith("rnn."))) / 3
    net.zero_grad()
    gather = Gather(net, None, batches())
    found = scores(name, [*SITES, BLOCK], Facts.of(net), gather)
    for where in SITES:
        torch.testing.assert_close(found[where.name], expected[where.name], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(found["rnn"], block, rtol=1e-4, atol=1e-8)


def test_taylor_is_exact_where_the_loss_is_linear() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 4, bias=False)
    where = site(C, ("weight", 0, C, "out"))
    x = torch.randn(5, 3)
    gather = Gather(net, None, [x], loss=lambda model, batch: model(batch).sum())
    found = scores("taylor", [where], Facts.of(net), gather)["c"]
    full = net(x).sum()
    for k in range(4):
        weight = net.weight.detach().clone()
        weight[k] = 0
        change = (nn.functional.linear(x, weight).sum() - full).abs()
        torch.testing.assert_close(found[k].float(), change.detach(), rtol=1e-4, atol=1e-5)


def test_taylor_of_a_gate_is_the_same_from_both_of_its_sides(net: nn.Module) -> None:
    gather = Gather(net, None, batches())
    norm = site(C, ("norm.weight", 0, C, "scale"), ("norm.bias", 0, C, "shift"))
    sides = [scores("taylor", [where], Facts.of(net), gather)["c"] for where in (CONV, norm)]
    torch.testing.assert_close(sides[0], sides[1], rtol=1e-4, atol=1e-7)


def test_only_taylor_scores_are_in_one_unit_for_all_sites(net: nn.Module) -> None:
    gather = Gather(net, None, batches())
    found = {name: scores(name, SITES, Facts.of(net), gather).comparable for name in NAMES}
    assert {name for name, comparable in found.items() if comparable} == {
        "taylor",
        "taylor_squared",
    }


def test_taylor_without_data_is_refused(net: nn.Module) -> None:
    with pytest.raises(RecipeError, match="'taylor' needs gradients"):
        scores("taylor", SITES, Facts.of(net))
    with pytest.raises(RecipeError, match="needs gradients"):
        resolve("taylor")(CONV, Facts.of(net))


@pytest.mark.parametrize(
    ("name", "element"),
    [("l1", torch.abs), ("bn_scale", torch.abs), ("group_l2", torch.square)],
)
def test_a_block_is_the_sum_of_its_parameters(
    net: nn.Module, name: str, element: Callable[[Tensor], Tensor]
) -> None:
    expected = sum(element(p.detach()).sum() for p in net.rnn.parameters())
    assert float(scores(name, [BLOCK], Facts.of(net))["rnn"]) == pytest.approx(float(expected))


def test_a_block_counts_shared_parameters_once_and_no_buffers() -> None:
    net = nn.ModuleDict({"b": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))})
    net["b"][1].weight = net["b"][0].weight
    net["b"][2].running_var.fill_(1000)
    where = Site("b", "layer", 1, module="b")
    expected = sum(float(p.detach().abs().sum()) for p in net.parameters())
    assert float(scores("l1", [where], Facts.of(net))["b"]) == pytest.approx(expected)


def test_a_block_without_parameters_scores_zero_with_a_note() -> None:
    facts = Facts({"fc.weight": torch.ones(2)})
    assert scores("l1", [Site("act", "layer", 1, module="act")], facts)["act"].tolist() == [0]
    assert facts.notes == ["act has no parameters: scored 0"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["l1", "l2", "group_l2"])
def test_broken_weights_are_named(net: nn.Module, name: str, value: float) -> None:
    with torch.no_grad():
        net.next.weight[0, 1] = value
        net.conv.weight[2] = value
    with pytest.raises(InputError, match=r"conv.weight holds values that are not finite"):
        scores(name, [CONV], Facts.of(net))


def test_broken_weights_of_a_block_are_named(net: nn.Module) -> None:
    with torch.no_grad():
        net.rnn.bias_hh_l0[0] = float("nan")
    with pytest.raises(InputError, match=r"rnn\.bias_hh_l0"):
        scores("l1", [BLOCK], Facts.of(net))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s, f: torch.ones(2), r"shape \[4\] for c, not \(2,\)"),
        (lambda s, f: [1.0] * 4, "not list"),
        (lambda s, f: torch.tensor([0, 0, float("nan"), 0]), "scores index 2 of c as nan"),
    ],
)
def test_a_user_s_function_is_checked(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scores(function, [CONV], Facts({s.tensor: torch.zeros(1) for s in CONV.slices}))


def test_a_user_s_function_works_bare_and_registered(net: nn.Module) -> None:
    def first(where: Site, facts: Facts) -> Tensor:
        """Keeps the first."""
        return -torch.arange(where.n)

    assert scores(first, [CONV], Facts.of(net))["c"].tolist() == [0, -1, -2, -3]
    made = criterion("test-first", paper="none")(first)
    assert resolve("test-first") is made
    assert (made.name, made.__doc__, made.__name__) == ("test-first", "Keeps the first.", "first")
    with pytest.raises(RecipeError, match="already a criterion"):
        criterion("test-first")(first)
    with pytest.raises(RecipeError, match="did you mean taylor"):
        resolve("tailor")
    with pytest.raises(RecipeError, match="needs='hessians'"):
        criterion("x", needs="hessians")  # type: ignore[arg-type]


def test_a_user_s_function_may_ask_for_gradients(net: nn.Module) -> None:
    def fisher(where: Site, facts: Facts) -> Tensor:
        assert facts.gradients is not None
        return where.pool(facts.gradients, lambda _, g: g.square(), {"out"})

    fisher.needs = "gradients"  # type: ignore[attr-defined]
    found = scores(fisher, SITES, Facts.of(net), Gather(net, None, batches()))
    assert all(bool((found[where.name] > 0).all()) for where in SITES)


def test_needs_are_one_name_or_several(net: nn.Module) -> None:
    one = Criterion("x", lambda s, f: torch.ones(s.n), needs="gradients")  # type: ignore[arg-type]
    assert one.needs == {"gradients"} and resolve("l1").needs == frozenset()

    def both(where: Site, facts: Facts) -> Tensor:
        """Wants what comes once, and what comes with every batch."""
        inputs, gradients = facts.get("inputs"), facts.get("gradients")
        assert set(inputs) == {"next.weight"} and facts.grams is None
        return inputs["next.weight"].variance[0] * gradients["next.weight"].square().sum((0, 2, 3))

    both.needs = ("gradients", "inputs")  # type: ignore[attr-defined]
    found = scores(both, [CONV], Facts.of(net), Gather(net, None, batches()))
    assert bool((found["c"] > 0).all())
    both.needs = ("gradients", "sample_gradients")  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="come at different times"):
        scores(both, [CONV], Facts.of(net), Gather(net, None, batches()))
    with pytest.raises(RecipeError, match="declare needs='grams'"):
        Facts.of(net).get("grams")


def test_data_without_labels_do_for_criteria_that_need_none(net: nn.Module) -> None:
    given = Gather(net, None, [x for x, _ in batches()])
    assert set(scores("vbp", SITES, Facts.of(net), given)) == {"c", "h", "heads"}
    with pytest.raises(InputError, match="without targets there is no loss"):
        scores("taylor", SITES, Facts.of(net), given)


def test_every_criterion_has_a_paper_and_a_docstring() -> None:
    assert set(criteria) >= NAMES
    for name in NAMES:
        each = criteria.get(name)
        assert isinstance(each, Criterion)
        assert each.paper and each.__doc__


def test_scores_come_on_the_cpu_in_float32_or_float64(net: nn.Module) -> None:
    found = scores("l2", SITES, Facts.of(copy.deepcopy(net).half()))
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert {t.dtype for t in scores("l2", SITES, Facts.of(net.double())).values()} == {
        torch.float64
    }


def test_half_precision_does_not_overflow() -> None:
    where = site(C, ("w", 0, C, "out"))
    found = scores("l2", [where], Facts({"w": torch.full((4, 9), 300.0, dtype=torch.float16)}))
    assert found["c"].tolist() == pytest.approx([900.0] * 4)


def test_a_frozen_layout_owns_nothing() -> None:
    where = Site("x", "channel", 2, (Slice("w", 0, Fixed(2), "out"),))
    assert scores("l1", [where], Facts({"w": torch.ones(2, 2)}))["x"].tolist() == [0, 0]
