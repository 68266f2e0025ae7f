"""LAMP against the paper's definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secateur.core.layout import Leaf
from secateur.core.site import Site, Slice
from secateur.score import Facts, scores


def test_each_is_divided_by_all_that_are_as_large() -> None:
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    site = Site("a", "channel", 7, (Slice("w", 0, Leaf("a", 7), "out"),))
    found = scores("lamp", [site], Facts({"w": weight}))
    norms = (weight.double().numpy() ** 2).sum(1)
    expected = [n / sum(m for m in norms if m >= n) for n in norms]
    assert found["a"].numpy() == pytest.approx(np.array(expected), rel=1e-5)
    assert float(found["a"].max()) == 1 and found.comparable


def test_zeros_score_zero_and_huge_weights_do_not_overflow() -> None:
    site = Site("a", "channel", 3, (Slice("w", 0, Leaf("a", 3), "out"),))
    assert scores("lamp", [site], Facts({"w": torch.zeros(3, 2)}))["a"].tolist() == [0, 0, 0]
    large = torch.tensor([[1e30], [2e30], [0.0]])
    found = scores("lamp", [site], Facts({"w": large}))["a"]
    assert found.tolist() == pytest.approx([0.2, 1.0, 0.0])
