"""Reductions in models: over free axes they are statistical, positions hold them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from analysis import Between, cuts, free, frozen
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

OVER: list[Any] = [
    pytest.param(lambda m, y: y * y.mean(1, keepdim=True), id="mean"),
    pytest.param(lambda m, y: y * y.sum(-1, True), id="sum"),
    pytest.param(lambda m, y: y - y.amax(1, keepdim=True), id="amax"),
    pytest.param(lambda m, y: y / y.norm(dim=1, keepdim=True), id="norm"),
    pytest.param(lambda m, y: y - y.max(1, keepdim=True).values, id="max"),
    pytest.param(lambda m, y: (y - y.mean(1, True)) / y.std(1, keepdim=True), id="std"),
    pytest.param(lambda m, y: y.softmax(1), id="softmax"),
    pytest.param(lambda m, y: y.log_softmax(-1), id="log_softmax"),
    pytest.param(lambda m, y: y - y.logsumexp(1, keepdim=True), id="logsumexp"),
    pytest.param(lambda m, y: y * y.median(1, keepdim=True).values, id="median"),
    pytest.param(lambda m, y: y * y.prod(1, keepdim=True), id="prod"),
    pytest.param(lambda m, y: y * torch.var_mean(y, 1, keepdim=True)[0], id="var_mean"),
]


@pytest.mark.parametrize("code", OVER)
def test_over_a_free_axis(code: Any) -> None:
    model = Between(code)
    graph = analyze(model, X)
    assert free(graph) == {"a": 8} and graph.axes["a"].statistical
    cuts(model, X, graph)


def test_over_another_axis_it_is_exact() -> None:
    model = Between(lambda m, y: y - y.mean(0) + y.softmax(0))
    graph = analyze(model, X)
    assert free(graph) == {"a": 8} and not graph.axes["a"].statistical
    cuts(model, X, graph)


def test_positions_of_a_maximum_hold_the_axis_once_they_are_used() -> None:
    def used(m: Any, y: Tensor) -> Tensor:
        values, where = y.max(1, keepdim=True)
        return y * values * where

    graph = analyze(Between(used), X)
    assert "positions of its maxima are used" in frozen(graph, "a").text


HOLD: list[Any] = [
    (lambda m, y: y.cumsum(1), "cumsum runs along it"),
    (lambda m, y: y.sort(1).values, "sort runs along it"),
    (lambda m, y: y * y.argmax(1, keepdim=True), "argmax runs along it"),
    (lambda m, y: torch.fft.fft(y).real, "a Fourier transform runs along it"),
    (lambda m, y: y.tril(), "tril depends on its positions"),
]


@pytest.mark.parametrize(("code", "text"), HOLD)
def test_operations_along_an_axis_hold_it(code: Any, text: str) -> None:
    graph = analyze(Between(code), X)
    assert text in frozen(graph, "a").text


class Square(nn.Module):
    """A square matrix between two layers, made of a parameter by some code of a test."""

    def __init__(self, code: Any) -> None:
        super().__init__()
        self.a, self.b, self.code = nn.Linear(4, 8), nn.Linear(8, 3), code
        self.matrix = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) @ self.code(self.matrix))


SQUARES: list[Any] = [
    pytest.param(lambda w: w.triu() + w.triu(1).mT, id="symmetric"),
    pytest.param(lambda w: w.tril(-1) - w.tril(-1).mT, id="skew"),
    pytest.param(lambda w: w - w.diagonal().diag_embed(), id="without diagonal"),
    pytest.param(lambda w: w.tril() * w.diagonal(), id="scaled"),
]


@pytest.mark.parametrize("code", SQUARES)
def test_a_triangle_loses_rows_with_columns(code: Any) -> None:
    model = Square(code)
    graph = analyze(model, X)
    assert free(graph) == {"matrix": 8} and not graph.axes["matrix"].statistical
    cuts(model, X, graph)


def test_a_triangle_away_from_the_diagonal_holds_its_positions() -> None:
    for code in (lambda w: w.triu(2), lambda w: w.tril(1), lambda w: w.diagonal(1).diag_embed(1)):
        assert "depends on its positions" in frozen(analyze(Square(code), X), "matrix").text


def test_the_same_along_another_axis_does_not() -> None:
    model = Between(lambda m, y: y.cumsum(0) + y.sort(0).values)
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)
