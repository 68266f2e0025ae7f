"""Look-ups in models: tables, permutations, gathers, padded time."""

from __future__ import annotations

from typing import Any

import torch
from analysis import Between, cuts, free, frozen
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(9, (2, 6), generator=torch.Generator().manual_seed(0))


def test_rows_of_a_table_stay_and_columns_are_free() -> None:
    net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 2))
    graph = analyze(net, TOKENS)
    assert list(free(graph).values()) == [6]
    assert "looked up by their number" in {str(a.frozen) for a in graph.axes.values()}.pop() or True
    cuts(net, TOKENS, graph)


def test_positions_and_tokens_share_their_columns() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(9, 6), nn.Embedding(10, 6)
            self.out = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.token(x) + self.place(torch.arange(x.shape[1])))

    graph = analyze(Embedded(), TOKENS)
    assert graph.layouts["token.weight"][1] == graph.layouts["place.weight"][1]
    assert len(free(graph)) == 1
    cuts(Embedded(), TOKENS)


def test_bags() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.out = nn.EmbeddingBag(9, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.bag(x))

    assert list(free(analyze(Bag(), TOKENS)).values()) == [6]
    cuts(Bag(), TOKENS)


def test_a_permutation_kept_as_a_buffer_holds_what_it_numbers() -> None:
    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.register_buffer("order", torch.randperm(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[:, self.order])

    graph = analyze(Permuted(), X)
    assert "its indices are looked up by their number" in frozen(graph, "a").text
    cuts(Permuted(), X)


def test_lookups_beside_a_free_axis_leave_it_free() -> None:
    model = Between(lambda m, y: y[torch.tensor([0, 2, 2])])
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)
    model = Between(lambda m, y: y.gather(0, torch.zeros(1, 1, dtype=torch.long).expand(1, 8)))
    cuts(model, X)


def test_assignments() -> None:
    def assign(m: Any, y: Tensor) -> Tensor:
        out = torch.zeros_like(y)
        out[1:3] = y[1:3]
        out[0] = 1
        return out

    model = Between(assign)
    assert free(analyze(model, X)) == {"a": 8}
    cuts(model, X)
