"""Shares of a block's inputs, and the blocks of a model."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from adapting import Chain
from torch import nn

from secateur.adapt.greedy import chain, shares
from secateur.core.batches import Call


def test_the_target_is_met_by_those_that_cost_least() -> None:
    sizes, price = [100, 300, 600], [5.0, 1.0, 2.0]

    def error(found: object) -> float:
        return sum(p * s * x**2 for p, s, x in zip(price, sizes, found, strict=True))  # type: ignore[call-overload]

    found = shares(sizes, 0.4, error)
    assert sum(s * x for s, x in zip(sizes, found, strict=True)) == pytest.approx(400)
    grid = [k / 20 for k in range(20)]
    best = min(
        error(tried)
        for tried in product(grid, repeat=3)
        if abs(sum(s * x for s, x in zip(sizes, tried, strict=True)) - 400) < 1
    )
    assert error(found) <= 1.1 * best


def test_nothing_and_all_that_is_possible() -> None:
    assert shares([4, 4], 0.0, lambda found: 0.0) == [0.0, 0.0]
    assert shares([4, 4], 0.99, lambda found: -sum(found)) == pytest.approx([0.99, 0.99])
    assert shares([4, 4], 0.99, sum) == pytest.approx([0.95, 0.95])
    assert shares([4, 4], 0.5, lambda found: abs(found[0] - 0.5)) == pytest.approx([0.5, 0.5])
    assert shares([7], 0.5, lambda found: 1 / 0) == pytest.approx([0.5])  # nothing to compare


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def test_blocks_are_judged_on_what_comes_into_them() -> None:
    net, x = Steps().eval(), torch.randn(10, 8)
    found = chain(net, [Call((x,), {})])
    assert [block.name for block in found] == ["blocks.0", "blocks.1", "blocks.2"]
    assert torch.equal(found[1].calls[0].args[0], net.blocks[0](net.first(x)))
    assert [block.error(net) for block in found] == [0.0] * 3
    assert found[2].holds("blocks.2.0") and not found[2].holds("blocks.20.0")
    with torch.no_grad():
        net.blocks[1][0].weight.mul_(0.5)
    assert found[1].error(net) > 0 == found[2].error(net)


def test_a_model_without_a_chain_is_one_block() -> None:
    (found,) = chain(Chain().eval(), [Call((torch.randn(6, 8),), {})])
    assert found.name == "" and found.holds("anything")
