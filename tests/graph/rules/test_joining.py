"""Concatenations, stacks and pieces in models."""

from __future__ import annotations

import pytest
import torch
from analysis import Between, cuts, free, tied
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Two linear layers into a third, by the code of a test."""

    def __init__(self, code, out: int) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.a, self.b, self.c, self.code = (
            nn.Linear(4, 6),
            nn.Linear(4, 6),
            nn.Linear(out, 2),
            code,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.code(self.a(x), self.b(x)))


def test_concatenated_axes_stay_independent() -> None:
    model = Two(lambda a, b: torch.cat([a, b], 1), 12)
    assert free(analyze(model, X)) == {"a": 6, "b": 6} and tied(analyze(model, X)) == []
    cuts(model, X)


def test_rows_one_above_the_other_share_their_columns() -> None:
    model = Two(lambda a, b: torch.cat([a, b]), 6)
    assert list(free(analyze(model, X)).values()) == [6]
    cuts(model, X)


def test_stacked_tensors_become_one_where_they_are_used_as_one() -> None:
    model = Two(lambda a, b: torch.stack([a, b]).sum(0), 6)
    assert list(free(analyze(model, X)).values()) == [6]
    cuts(model, X)


@pytest.mark.parametrize("pick", [lambda s: s[0], lambda s: s[-1], lambda s: s.unbind()[1]])
def test_a_tensor_picked_out_of_a_stack_is_itself(pick) -> None:  # type: ignore[no-untyped-def]
    model = Two(lambda a, b: pick(torch.stack([a, b])), 6)
    graph = analyze(model, X)
    assert free(graph) == {"a": 6, "b": 6} and tied(graph) == [{"a": 1, "b": 1}]
    cuts(model, X, graph)


def test_padding_is_a_part_that_stays() -> None:
    model = Between(lambda m, y: nn.functional.pad(y, (1, 2)), out=11)
    graph = analyze(model, X)
    assert graph.layouts["b.weight"][1].to_json() == {"concat": [1, "a", 2]}
    cuts(model, X, graph)


def test_pieces_that_do_not_line_up_freeze() -> None:
    def code(m, y):  # type: ignore[no-untyped-def]
        left, right = y.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8).split([3, 5], 1)
        return torch.cat([right, left], 1)

    assert free(analyze(Between(code), X)) == {}


def test_an_empty_piece_is_nothing() -> None:
    model = Between(lambda m, y: torch.cat([y[:, :0], y], 1))
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)


class Positions(nn.Module):
    """Places of a table that is longer than the example, added to a sequence."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        table = torch.randn(1, 40, 6)
        if learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.register_buffer("mask", torch.ones(40, 40).tril())
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        y = self.a(x) + self.table[:, :n]
        return self.b(self.mask[:n, :n] @ y)


@pytest.mark.parametrize("learned", [True, False])
def test_what_the_example_left_over_of_a_table_stays(learned: bool) -> None:
    model = Positions(learned)
    graph = analyze(model, torch.randn(2, 7, 4))
    assert list(free(graph).values()) == [6]
    reasons = [axis.frozen for axis in graph.axes.values() if axis.n == 33]
    assert reasons and all("only a part of it" in r.text for r in reasons if r is not None)
    assert None not in reasons


class Packed(nn.Module):
    """Queries, keys and values are rows of one weight, sliced by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(18, 4)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x @ self.w[:6].T, x @ self.w[6:12].T, x @ self.w[12:].T
        return self.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)


def test_slices_that_take_everything_leave_nothing_over() -> None:
    graph = analyze(Packed(), torch.randn(2, 5, 4))
    reasons = [axis.frozen.text for axis in graph.axes.values() if axis.frozen is not None]
    assert not any("only a part" in reason for reason in reasons)
