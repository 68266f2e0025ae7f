"""Fused attention in models: heads, shared key heads, masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from analysis import cuts, free
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention by F.scaled_dot_product_attention with `groups` heads for keys and values."""

    def __init__(self, groups: int = 4, **options: Any) -> None:
        super().__init__()
        self.heads, self.groups, self.dim, self.options = 4, groups, 6, options
        self.q, self.out = nn.Linear(5, 24), nn.Linear(4 * 8, 2)
        self.k, self.v = nn.Linear(5, groups * 6), nn.Linear(5, groups * 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.groups, -1)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.groups, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, **self.options)
        return self.out(y.transpose(1, 2).flatten(2))


def test_heads_and_values_are_free_and_the_default_scale_holds_the_dims() -> None:
    model = Attention()
    graph = analyze(model, X)
    assert free(graph) == {"q.head": 4, "v.1": 8}
    assert graph.axes["q.head"].head
    cuts(model, X, graph)


def test_a_scale_of_its_own_frees_the_dims() -> None:
    model = Attention(scale=0.3)
    graph = analyze(model, X)
    assert free(graph) == {"q.head": 4, "q.1": 6, "v.1": 8}
    cuts(model, X, graph)


def test_shared_key_heads_lose_whole_groups() -> None:
    model = Attention(groups=2, enable_gqa=True)
    graph = analyze(model, X)
    assert graph.layouts["k.weight"][0].to_json()["product"][0] in free(graph)
    cuts(model, X, graph)


@pytest.mark.parametrize("shape", [(7, 7), (1, 7, 7), (2, 1, 7, 7)])
def test_masks_hold_nothing_but_positions(shape: tuple[int, ...]) -> None:
    class Masked(Attention):
        def __init__(self) -> None:
            super().__init__(attn_mask=None)
            self.register_buffer("mask", torch.randn(shape))

        def forward(self, x: Tensor) -> Tensor:
            self.options = {"attn_mask": self.mask}
            return super().forward(x)

    model = Masked()
    graph = analyze(model, X)
    assert free(graph) == {"q.head": 4, "v.1": 8}
    cuts(model, X, graph)


def test_a_bias_for_every_head_is_cut_with_the_heads() -> None:
    class Biased(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.randn(4, 7, 7))

        def forward(self, x: Tensor) -> Tensor:
            self.options = {"attn_mask": self.bias[None]}
            return super().forward(x)

    graph = analyze(Biased(), X)
    assert graph.layouts["bias"][0].to_json() in free(graph)
    cuts(Biased(), X)
