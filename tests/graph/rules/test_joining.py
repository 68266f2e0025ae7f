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
