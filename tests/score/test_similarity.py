"""FPGM against scipy, folding against clusters that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from secateur.core.layout import Concat, Leaf, Product
from secateur.core.site import Site, Slice
from secateur.score import Facts, scores
from secateur.score.similarity import kmeans

LEAF = Leaf("a", 4)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_fpgm_sums_distances_over_all_producers() -> None:
    heads = Product((LEAF, Leaf("d", 2)))
    gates = Concat((LEAF, LEAF))
    site = Site(
        "a",
        "channel",
        4,
        (
            Slice("conv", 0, LEAF, "out"),
            Slice("heads", 0, heads, "out"),
            Slice("gates", 1, gates, "out"),
            Slice("bias", 0, LEAF, "out"),
            Slice("next", 1, LEAF, "in"),
        ),
    )
    tensors = {
        "conv": drawn(4, 2, 3, 3),
        "heads": drawn(8, 5),
        "gates": drawn(3, 8),
        "bias": drawn(4),
        "next": drawn(6, 4),
    }
    conv, heads_, gates_ = (tensors[k].double().numpy() for k in ("conv", "heads", "gates"))
    rows = np.array(
        [
            np.concatenate(
                [
                    conv[j].reshape(-1),
                    heads_[2 * j : 2 * j + 2].reshape(-1),
                    gates_[:, j],
                    gates_[:, 4 + j],
                ]
            )
            for j in range(4)
        ]
    )
    found = scores("fpgm", [site], Facts(tensors))["a"]
    assert found.numpy() == pytest.approx(cdist(rows, rows).sum(1), rel=1e-6)


def pairs() -> torch.Tensor:
    """Three clusters of two, far apart, and members at known distances."""
    centres = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, 20, 0]])
    near = torch.tensor([[0.0, 0, 0.1], [0, 0, 0.4]])
    return (centres[:, None] + near[None]).reshape(6, 3)


def test_folding_keeps_one_of_each_cluster() -> None:
    rows = pairs()
    site = Site("a", "channel", 6, (Slice("w", 0, Leaf("a", 6), "out"),))
    found = scores("folding", [site], Facts({"w": rows}, seed=3))["a"].reshape(3, 2)
    low, high = found.min(1).values, found.max(1).values
    assert low.tolist() == pytest.approx([0.3] * 3, rel=1e-5)
    # representatives: 0.3 (the largest of the others) plus the distance to the nearest other one
    assert high.tolist() == pytest.approx([10.3, 10.3, 20.3], rel=1e-2)
    again = scores("folding", [site], Facts({"w": rows}, seed=3))["a"].reshape(3, 2)
    assert torch.equal(found, again)


def test_kmeans_is_scipy_s_on_clear_clusters() -> None:
    generator = torch.Generator().manual_seed(1)
    middle = torch.randn(5, 1, 4, generator=generator) * 30
    rows = (middle + torch.randn(5, 6, 4, generator=generator)).reshape(30, 4).double()
    cluster, centres = kmeans(rows, 5, torch.Generator().manual_seed(0))
    found, members = kmeans2(rows.numpy(), middle[:, 0].numpy(), minit="matrix")
    mine = {frozenset(np.flatnonzero(cluster.numpy() == k)) for k in range(5)}
    assert mine == {frozenset(np.flatnonzero(members == k)) for k in range(5)}
    assert sorted(centres[:, 0].tolist()) == pytest.approx(sorted(found[:, 0]))


def test_equal_rows_and_single_ones() -> None:
    site = Site("a", "channel", 4, (Slice("w", 0, LEAF, "out"),))
    for name in ("fpgm", "folding"):
        found = scores(name, [site], Facts({"w": torch.ones(4, 2)}))["a"]
        assert bool((found >= 0).all())
        one = Site("o", "channel", 1, (Slice("w", 0, Leaf("o", 1), "out"),))
        assert scores(name, [one], Facts({"w": torch.ones(1, 2)}))["o"].shape == (1,)
