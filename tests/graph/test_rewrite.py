"""Literal sizes become attributes of an exported graph, and can then be cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import RecipeError, UnsupportedModel
from secateur.graph.rewrite import rewrite


class Literals(nn.Module):
    """Sizes written as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 96), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(2, 5, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2)) * 0.35).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(2, 5, 32))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_literals_freeze_without_and_follow_with_rewriting() -> None:
    model, x = Literals().eval(), torch.randn(2, 5, 8)
    with pytest.raises(RecipeError, match="rewrite=True"):
        sc.prune(model, x, latency=False)
    result = sc.prune(model, x, latency=False, rewrite=True)
    assert result.after.params < 0.5 * result.before.params
    assert result.verification.ok and not result.verification.statistical
    assert result.model(x).shape == (2, 5, 3)
    assert model.qkv.weight.shape == (96, 8)


def test_the_graph_computes_the_same_with_the_same_parameters() -> None:
    model, x = Literals().eval(), torch.randn(2, 5, 8)
    graph = rewrite(model, x)
    torch.testing.assert_close(graph(x), model(x))
    assert {n for n, _ in graph.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_what_cannot_be_exported_is_said() -> None:
    with pytest.raises(UnsupportedModel, match=r"torch\.export cannot record"):
        rewrite(Branching(), torch.ones(2, 4))
