"""Sizes in views, expansions, repeats and strides."""

from __future__ import annotations

import torch
from analysis import Between, free
from torch import Tensor

from secateur.graph import analyze

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def test_an_attribute_follows_and_a_literal_freezes() -> None:
    followed = Between(lambda m, x: x.view(-1, m.heads, 2).flatten(1), heads=4)
    literal = Between(lambda m, x: x.view(-1, 4, 2).flatten(1))
    assert sorted(free(analyze(followed, X)).values()) == [4]
    assert free(analyze(literal, X)) == {}


def test_minus_one_adapts() -> None:
    model = Between(lambda m, x: x.view(x.shape[0], -1, 2).flatten(1))
    assert sorted(free(analyze(model, X)).values()) == [4]


def test_sizes_read_off_shapes_adapt() -> None:
    model = Between(lambda m, x: x.view(x.shape[0], x.shape[1] // 2, 2).flatten(1))
    assert sorted(free(analyze(model, X)).values()) == [4]


def test_the_shape_of_another_tensor_ties_counts() -> None:
    def code(m: Between, x: Tensor) -> Tensor:
        return x.view_as(m.a(torch.ones(2, 4)))

    graph = analyze(Between(code), X)
    assert sorted(free(graph).values()) == [8]


def test_a_literal_stride_freezes_and_a_read_one_adapts() -> None:
    read = Between(lambda m, x: x.as_strided((x.shape[0], x.shape[1]), x.stride()))
    literal = Between(lambda m, x: x.as_strided((2, x.shape[1]), (8, 1)))
    assert sorted(free(analyze(read, X)).values()) == [8]
    assert free(analyze(literal, X)) == {}


def test_repeats_given_as_a_tensor_hold_the_positions_that_are_repeated() -> None:
    times = torch.tensor([1, 0, 2, 1, 1, 1, 1, 1])
    graph = analyze(Between(lambda m, x: x.repeat_interleave(times, 1)), X)
    assert not free(graph) and not graph.unknown
    rows = Between(lambda m, x: x.repeat_interleave(times[:2], 0))
    assert free(analyze(rows, X)) == {"a": 8}


def test_repeats_are_sizes() -> None:
    model = Between(lambda m, x: x.repeat(1, m.times), out=16, times=2)
    assert 8 in free(analyze(model, X)).values()
