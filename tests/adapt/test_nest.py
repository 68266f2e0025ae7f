"""Nested plans, and dense networks in another order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from adapting import Recurrent, perceptron, residual
from torch import Tensor, nn

from secateur.adapt.nest import nest, nested, positions, sorted_copy
from secateur.api.arguments import Arguments
from secateur.core.errors import InfeasibleBudget
from secateur.core.layout import Concat, Fixed, Leaf, Product
from secateur.search.workshop import Workshop

SHARES = (0.75, 0.5, 0.25)


def shop_of(net: nn.Module, x: Tensor, **arguments: object) -> Workshop:
    given = Arguments.of(**arguments)  # type: ignore[arg-type]
    return given.workshop(net, given.call(net, x[:1]))


@pytest.mark.parametrize("how", ["global", "uniform", "knapsack"])
def test_counts_never_rise_and_fit_their_share(how: str) -> None:
    net, x = residual()
    shop = shop_of(net, x, criterion="magnitude", allocate=how)
    found = nested(shop.decider, SHARES, "macs", how)
    whole = shop.before.macs
    above = {site.name: site.n for site in shop.decider.places}
    for share, counts in zip(SHARES, found, strict=True):
        assert all(counts[name] <= above[name] for name in above)
        cost = shop.decider.cost.total(counts).macs
        assert 0.8 * share * whole <= cost <= share * whole
        above = counts


def test_a_level_that_cannot_be_reached_is_named() -> None:
    net, x = residual()
    shop = shop_of(net, x, criterion="magnitude")
    with pytest.raises(
        InfeasibleBudget, match=r"there is no level 0\.001: .*the least is"
    ) as found:
        nested(shop.decider, (0.5, 0.001), "macs", shop.how)
    assert found.value.hint is not None and "larger levels" in found.value.hint


def test_an_allocator_that_changes_its_mind_is_still_nested() -> None:
    net, x = perceptron()
    shop = shop_of(net, x, criterion="magnitude", allocate="uniform")

    def fickle(ladders: list[object]) -> list[np.ndarray]:
        fickle.turn += 1  # type: ignore[attr-defined]
        keys = [np.linspace(0, 1, len(ladder.levels) - 1) for ladder in ladders]  # type: ignore
        keys[fickle.turn % 2] = keys[fickle.turn % 2] / 100  # type: ignore[attr-defined]
        return keys

    fickle.turn = 0  # type: ignore[attr-defined]
    found = nested(shop.decider, SHARES, "params", fickle)
    for large, small in pairwise(found):
        assert all(small[name] <= large[name] for name in large)
    for share, counts in zip(SHARES, found, strict=True):
        assert shop.decider.cost.total(counts).params <= share * shop.before.params


@pytest.mark.parametrize("make", [residual, perceptron])
def test_the_sorted_copy_gives_the_same_and_keeps_prefixes(make: object) -> None:
    net, x = make()  # type: ignore[operator]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shop = shop_of(net, x, criterion="magnitude")
    dense, trials, notes = nest(shop, SHARES, "macs")
    assert torch.allclose(dense(x), net(x), atol=1e-5)
    assert notes == ()
    for trial in trials:
        for choice in trial.plan.sites.values():
            assert np.array_equal(choice.keep, np.arange(len(choice.keep)))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert shop.model is net


def test_levels_are_what_the_scores_of_the_original_say() -> None:
    """A level equals a cut of the original to the same counts, up to the order of sums."""
    net, x = perceptron()
    shop = shop_of(net, x, criterion="magnitude")
    counts = nested(shop.decider, (0.5,), "macs", shop.how)[0]
    separate = shop.keep(counts).model
    _, trials, _ = nest(shop, (0.5,), "macs")
    assert torch.allclose(trials[0].model(x), separate(x), atol=1e-5)


def test_recurrent_gates_are_reordered_together() -> None:
    torch.manual_seed(0)
    net, x = Recurrent(), torch.randn(8, 4, 5)
    shop = shop_of(net, x, criterion="magnitude")
    dense, ordered = sorted_copy(net, shop.call, shop.graph, shop.decider)
    assert ordered
    assert torch.allclose(dense(x), net(x), atol=1e-5)
    assert not torch.equal(dense.lstm.weight_hh_l0, net.lstm.weight_hh_l0)


class Neighbours(nn.Module):
    """Channels that are normalised by their neighbours: their order matters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)
        self.norm = nn.LocalResponseNorm(3, alpha=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


def test_where_the_order_matters_it_stays_and_is_said() -> None:
    torch.manual_seed(0)
    net, x = Neighbours(), torch.randn(4, 3, 4, 4)
    shop = shop_of(net, x, criterion="magnitude")
    dense, trials, notes = nest(shop, (0.5,), "params")
    assert torch.equal(dense(x), net(x))
    assert any("could not be reordered" in note for note in notes)
    assert trials[0].verification is not None and trials[0].verification.ok


def test_positions_of_products_and_concatenations() -> None:
    heads, dim = Leaf("h", 2), Leaf("d", 3)
    orders = {"h": np.array([1, 0]), "d": np.array([2, 0, 1])}
    layout = Concat((Fixed(2), Product((heads, dim)), dim))
    assert positions(layout, orders).tolist() == [0, 1, 7, 5, 6, 4, 2, 3, 10, 8, 9]
