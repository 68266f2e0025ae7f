"""Blocks: how they are found, what each is called with, and running one alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import InputError, UnsupportedModel
from secateur.recover.blocks import capture, exchange, find_blocks, hidden_of, run


class Config:
    use_cache = True


class KeyCache:
    pass


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, bias: Tensor, cache: Any = None) -> tuple[Tensor, int]:
        assert cache is None
        return torch.tanh(self.fc(hidden_states)) + bias, 7


class Chain(nn.Module):
    def __init__(self, between: bool = False, skip: bool = False, named: bool = False) -> None:
        super().__init__()
        self.small = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
        self.blocks = nn.ModuleList(Layer() for _ in range(3))
        self.config, self.between, self.skip, self.named = Config(), between, skip, named

    def forward(self, x: Tensor) -> Tensor:
        cache = KeyCache() if self.config.use_cache else None
        for number, block in enumerate(self.blocks):
            if self.skip and number == 1:
                continue
            bias = torch.full((4,), float(number))
            if self.named:
                x = block(bias=bias, hidden_states=x, cache=cache)[0]
            else:
                x = block(x, bias, cache)[0]
            if self.between:
                x = x * 2
        raise AssertionError("what comes behind the blocks need not run")


def test_the_largest_list_of_one_type_is_found() -> None:
    assert list(find_blocks(Chain())) == ["blocks.0", "blocks.1", "blocks.2"]
    with pytest.raises(UnsupportedModel, match="no list of blocks"):
        find_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


@pytest.mark.parametrize("named", [False, True])
def test_blocks_run_alone_as_they_ran_in_the_chain(named: bool) -> None:
    model = Chain(named=named).eval()
    blocks = list(model.blocks)
    calls = [Call((torch.randn(2, 4),), {}), Call((torch.randn(5, 4),), {})]
    hidden, feeds = capture(model, blocks, calls)
    assert model.config.use_cache is True
    assert [len(x) for x in hidden] == [2, 5] and [len(f) for f in feeds] == [3, 3]
    for number, block in enumerate(blocks):
        given = [feed[number].call(x) for feed, x in zip(feeds, hidden, strict=True)]
        expected = [torch.tanh(block.fc(x)) + number for x in hidden]
        hidden = run(block, given)
        assert all(torch.equal(a, b) for a, b in zip(hidden, expected, strict=True))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_what_is_no_chain_is_refused_and_leaves_no_hook() -> None:
    for model, text in (
        (Chain(between=True), "something happens between block 0"),
        (Chain(skip=True), "do not run one after another"),
    ):
        with pytest.raises(UnsupportedModel, match=text):
            capture(model, list(model.blocks), [Call((torch.ones(1, 4),), {})])
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
        assert model.config.use_cache is True


def test_a_block_that_never_runs_is_said() -> None:
    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks[1](self.blocks[0](x))

    model = Short()
    with pytest.raises(UnsupportedModel, match="1 of the blocks did not run"):
        capture(model, list(model.blocks), [Call((torch.ones(1, 2),), {})])


def test_a_block_sees_other_hidden_states_for_the_very_ones_it_is_given() -> None:
    block, given, other = nn.Linear(2, 2), torch.randn(3, 2), torch.randn(3, 2)
    expected = block(other)
    exchange(block, [given], [other])
    assert torch.equal(block(given), expected)
    assert not torch.equal(block(given.clone()), expected)


def test_what_is_no_hidden_state_is_refused() -> None:
    assert hidden_of((torch.ones(1), None)).item() == 1
    with pytest.raises(UnsupportedModel, match="returns a dict"):
        hidden_of({"x": torch.ones(1)})
    with pytest.raises(InputError, match="not finite"):
        run(nn.Identity(), [Call((torch.tensor([float("nan")]),), {})])
