"""What is printed of a network that skips."""

from __future__ import annotations

import torch
from torch import nn

from secateur.adapt.lazy import Input, Lazy


def test_shares_are_weighted_by_weights() -> None:
    lazy = Lazy(nn.Linear(4, 2), (Input("a", 6, 0.5, 0.5), Input("b", 2, 0.1, 0.1)))
    assert lazy.skipped == (0.5 * 6 + 0.1 * 2) / 8
    lazy.notes = ("look here",)
    text = str(lazy)
    assert "reads 60.0% of the weights" in text and "note: look here" in text
    assert "held-out outputs change by nan" in text
    assert torch.equal(lazy(torch.ones(1, 4)), lazy.model(torch.ones(1, 4)))
