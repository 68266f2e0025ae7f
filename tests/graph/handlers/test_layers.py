"""Sizes that layers take: normalisations, groups, attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from analysis import Between, attributes, free, frozen
from torch import Tensor, nn

from secateur.graph import analyze

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def test_a_normalised_shape_follows() -> None:
    graph = analyze(Between(lambda m, x: m.norm(x), norm=nn.LayerNorm(8)), X)
    assert free(graph) == {"a": 8}
    assert "norm.normalized_shape.0" in attributes(graph)


def test_a_literal_normalised_shape_freezes() -> None:
    assert free(analyze(Between(lambda m, x: F.layer_norm(x, (8,))), X)) == {}


def test_groups_of_a_convolution_follow() -> None:
    conv = nn.Conv1d(8, 8, 1, groups=4)
    graph = analyze(Between(lambda m, x: m.conv(x[..., None])[..., 0], conv=conv), X)
    assert "conv.groups" in attributes(graph)


def test_the_default_scale_of_attention_pins_the_head_dim() -> None:
    def code(m: Between, x: Tensor) -> Tensor:
        heads = x.view(1, 2, m.heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(heads, heads, heads, scale=m.scale)
        return mixed.transpose(1, 2).flatten(2)[0]

    pinned = analyze(Between(code, heads=2, scale=None), X)
    given = analyze(Between(code, heads=2, scale=0.5), X)
    assert sorted(free(pinned).values()) == [2]
    assert sorted(free(given).values()) == [2, 4]
    reasons = [a.frozen.text for a in pinned.axes.values() if a.frozen is not None]
    assert any("scaled by 1/sqrt" in text for text in reasons)


def test_batch_norm_names_its_statistics() -> None:
    graph = analyze(Between(lambda m, x: m.norm(x), norm=nn.BatchNorm1d(8)), X)
    assert graph.roles["norm.weight", 0] == "scale"
    assert graph.roles["norm.running_mean", 0] == "buffer"
    assert frozen(graph, "b").op == "output"
