"""Sizes of new tensors, and values that leave PyTorch."""

from __future__ import annotations

import torch
from analysis import Between, free, frozen
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def test_new_tensors_follow_attributes_and_shapes() -> None:
    for code in (
        lambda m, x: x + torch.zeros(2, m.width),
        lambda m, x: x + x.new_ones(x.shape[0], x.shape[1]),
        lambda m, x: x + torch.full((2, m.width), 0.5),
    ):
        assert free(analyze(Between(code, width=8), X)) == {"a": 8}


def test_a_literal_size_freezes() -> None:
    assert free(analyze(Between(lambda m, x: x + torch.zeros(2, 8)), X)) == {}


def test_enumerations_and_random_numbers_freeze() -> None:
    counted = Between(lambda m, x: x * torch.arange(m.width), width=8)
    drawn = Between(lambda m, x: x + torch.rand(2, m.width), width=8)
    assert free(analyze(counted, X)) == free(analyze(drawn, X)) == {}
    assert "random" in frozen(analyze(drawn, X), "a").text


def test_values_that_leave_pytorch_freeze() -> None:
    def code(m: Between, x: Tensor) -> Tensor:
        return x + float(x.detach().numpy().sum())

    assert "leave" in frozen(analyze(Between(code), X), "a").text


def test_zero_states_tie_counts_but_not_indices() -> None:
    net = Between(lambda m, x: m.rnn(x[None])[0][0], out=6, rnn=nn.LSTM(8, 6, 2))
    graph = analyze(net, X)
    layers = [set(tie.ratios) for tie in graph.ties if len(tie.ratios) > 1]
    assert layers == [{"rnn.weight_ih_l0", "rnn.weight_ih_l1"}]
