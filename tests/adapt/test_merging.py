"""Merging against a plain loop, and what must stay."""

import pytest
import torch
from torch import Tensor

from secateur.adapt.merging import merge


def by_hand(x: Tensor, keys: Tensor, sizes: Tensor, r: int, fixed: int) -> tuple[Tensor, Tensor]:
    """One sample `[t, c]`, pair by pair."""
    proposals = []
    for i in range(0, len(x), 2):
        for j in range(1, len(x), 2):
            if i >= fixed and j >= fixed:
                cosine = torch.cosine_similarity(keys[i], keys[j], dim=0)
                proposals.append((float(cosine), i, j))
    best = {}
    for cosine, i, j in sorted(proposals):
        best[i] = (cosine, i, j)
    groups = {k: [k] for k in range(len(x))}
    for _, i, j in sorted(best.values(), reverse=True)[:r]:
        groups[j].append(i)
        del groups[i]
    weights = torch.stack([sizes[g].sum() for g in groups.values()])
    tokens = [(x[g] * sizes[g, None]).sum(0) / sizes[g].sum() for g in groups.values()]
    return torch.stack(tokens), weights


@pytest.mark.parametrize("fixed", [0, 1, 2, 3])
@pytest.mark.parametrize("t", [9, 10])
def test_merging_by_hand(fixed: int, t: int) -> None:
    x, keys, sizes = torch.randn(4, t, 5), torch.randn(4, t, 3), torch.rand(4, t) + 0.5
    found, weights = merge(x, keys, sizes, 3, fixed)
    assert weights is not None
    for k in range(4):
        wanted, expected = by_hand(x[k], keys[k], sizes[k], 3, fixed)
        assert torch.allclose(found[k], wanted, atol=1e-5)
        assert torch.allclose(weights[k], expected, atol=1e-5)
    assert torch.allclose(found[:, :fixed], x[:, :fixed], atol=1e-6)
    assert torch.allclose(
        (found * weights[..., None]).sum(1), (x * sizes[..., None]).sum(1), atol=1e-4
    )


def test_at_most_half_of_the_free_tokens_go() -> None:
    x = torch.randn(1, 6, 4)
    assert merge(x, x, None, 100, 1)[0].shape[1] == 4
    assert merge(x, x, None, 0, 1)[0] is x
    assert merge(x[:, :2], x[:, :2], None, 5, 1)[0].shape[1] == 2
