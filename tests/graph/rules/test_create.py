"""New tensors: sized by an attribute, by a shape, by a literal, or drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from analysis import Between, cuts, free, frozen, line
from torch import Tensor

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [torch.zeros_like, torch.ones_like])
def test_like_another_tensor(make: Any) -> None:
    model = Between(lambda m, y: y + make(y))
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)


@pytest.mark.parametrize("make", [torch.rand_like, torch.randn_like, torch.dropout])
def test_random_numbers_hold_their_axes(make: Any) -> None:
    def draw(m: Any, y: Tensor) -> Tensor:
        return make(y, 0.5, True) if make is torch.dropout else y + make(y)

    graph = analyze(Between(draw), X)
    assert free(graph) == {} and "random" in frozen(graph, "a").text


def test_a_literal_size_freezes_what_it_meets() -> None:
    def literal(m: Any, y: Tensor) -> Tensor:
        return torch.zeros(8) + y

    graph = analyze(Between(literal), X)
    assert free(graph) == {} and frozen(graph, "a").where == line(literal, 1)


def test_a_concatenated_constant_stays_beside() -> None:
    model = Between(lambda m, y: torch.cat([y, torch.ones(5, 2)], 1), out=10)
    graph = analyze(model, X)
    assert free(graph) == {"a": 8}
    assert graph.layouts["b.weight"][1].to_json() == {"concat": ["a", 2]}
    cuts(model, X, graph)


def test_enumerations_are_frozen() -> None:
    model = Between(lambda m, y: y * torch.linspace(0, 1, y.shape[1]))
    assert free(analyze(model, X)) == {}
