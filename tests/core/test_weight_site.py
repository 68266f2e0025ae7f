"""Weight sites: a tensor, how it is a matrix, and what it counts."""

from __future__ import annotations

import torch

from secateur.core.matrix import Matrix
from secateur.core.weight_site import WeightSite


def test_sizes() -> None:
    site = WeightSite("conv.weight", (8, 3, 5, 5), Matrix("conv"))
    assert (site.n, site.taps) == (600, 25)
    assert WeightSite("fc.weight", (4, 6)).taps == 1


def test_masks_and_weights_take_the_same_way() -> None:
    site = WeightSite("up.weight", (4, 6, 3), Matrix("transposed", 2))
    weight = torch.randn(4, 6, 3)
    mask = weight > 0
    assert torch.equal(site.matrix(mask), site.matrix(weight) > 0)
    assert torch.equal(site.tensor(site.matrix(mask)), mask)
