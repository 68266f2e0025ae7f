"""Which exits pay: mean times by hand, the choice against all choices, and what is refused."""

from collections.abc import Sequence
from itertools import chain as joined
from itertools import combinations, pairwise

import pytest
import torch
from adapting import chain
from torch import nn

import secateur as sc
from secateur.adapt.exiting import stops
from secateur.adapt.heads import Head
from secateur.adapt.paying import Price, price, worth
from secateur.core.batches import Call


def test_the_mean_is_what_samples_take_one_by_one() -> None:
    made, leaving = Price((1.0, 3.0, 5.0), (0.1, 0.2, 0.3), 6.0), [4, 2]
    first, third, stay = 1.0 + 0.1, 5.0 + 0.1 + 0.3, 6.0 + 0.1 + 0.3
    assert made.mean([0, 2], leaving, 10) == pytest.approx((4 * first + 2 * third + 4 * stay) / 10)
    assert made.mean([], [], 10) == 6.0


def test_the_exits_taken_are_better_than_others() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        upto, heads = torch.rand(4).cumsum(0).tolist(), (0.2 * torch.rand(4)).tolist()
        made, sure = Price(tuple(upto), tuple(heads), upto[-1] + 0.3), torch.rand(50, 4)
        limits = torch.rand(4) + 0.2

        def leaving(
            some: Sequence[int], sure: torch.Tensor = sure, limits: torch.Tensor = limits
        ) -> list[int]:
            first = [next((k for k in some if row[k] > limits[k]), -1) for row in sure]
            return [first.count(k) for k in some]

        chosen = worth(made, leaving, 50)
        found = made.mean(chosen, leaving(chosen), 50)
        every = joined.from_iterable(combinations(range(4), n) for n in range(5))
        best = min(made.mean(some, leaving(some), 50) for some in every)
        assert best <= found <= made.whole
        assert found <= min(made.mean((k,), leaving((k,)), 50) for k in range(4))
        assert found < best + 0.1 * made.whole


def test_heads_that_take_more_than_they_save_are_not_taken() -> None:
    assert worth(Price((1.0, 1.9), (2.0, 0.5), 2.0), lambda some: [5] * len(some), 10) == ()
    assert worth(Price((1.0, 1.9), (0.1, 0.5), 2.0), lambda some: [5] * len(some), 10) == (0,)


def test_prices_are_of_every_exit() -> None:
    net, x = chain()
    stops(net, ["stem", "blocks.3"])
    made = price(net, [Head(nn.Linear(16, 3)) for _ in range(2)], Call((x[:1],), {}))
    assert 0 < made.upto[0] < made.upto[1] and min(made.heads) > 0 and made.whole > 0


def test_an_exit_behind_the_last_block_is_not_there() -> None:
    net, x = chain()
    early = sc.adapt.exits(net, x, guarantee=0.9, at=["blocks.3"], samples=600)
    assert "all inputs take the whole network" in str(early)
    assert torch.equal(early(x[:5]), net(x[:5]))
    assert early.agreement == early.mean_cost == 1.0
    kept = sc.adapt.exits(net, x, guarantee=0.9, at=["blocks.3"], samples=600, only_faster=False)
    assert kept.names == ("blocks.3",) and sum(kept.leaving) > 0


def test_only_exits_that_pay_are_kept() -> None:
    class Deep(nn.Module):
        """Nearly all of the time is in the blocks behind the first."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 3)
            sizes = (3, 2000, 2000, 2000, 3)
            self.rest = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x = self.first(x)
            for layer in self.rest:
                y = torch.relu(layer(y))
            return x + 0.01 * y

    torch.manual_seed(0)
    net, x = Deep().eval(), torch.randn(600, 8)
    early = sc.adapt.exits(net, x, guarantee=0.8)
    assert early.names[0] in ("first", "rest.0") and early.times is not None
    assert f"means of {early.timed} samples" in str(early)
    with torch.no_grad():
        out, where = early.leave(x[:1])
    assert out.shape == (1, 3) and where.shape == (1,)
