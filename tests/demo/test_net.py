"""The demo's network."""

from __future__ import annotations

import torch

from secateur.demo.net import DigitNet


def test_size_and_shapes() -> None:
    model = DigitNet()
    assert 50_000 < sum(p.numel() for p in model.parameters()) < 150_000
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
