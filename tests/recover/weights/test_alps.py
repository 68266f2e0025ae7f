"""ALPS: near the best of all masks, better than a sweep, under every pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solver_cases import best_row, layer, loss, solved

from secateur.recover.weights import alps, sparsegpt
from secateur.units import Pattern

ROW = Pattern(group="row")


def test_near_the_best_of_all_masks_and_better_than_sparsegpt() -> None:
    totals = np.zeros(3)
    for seed in range(6):
        weight, h = layer(4, 10, seed)
        exact = sum(best_row(r.numpy(), h.numpy(), 5) for r in weight)
        totals += (exact, *(loss(f(weight, h, ROW, 0.5), weight, h) for f in (alps, sparsegpt)))
    best, found, sweep = totals
    assert best <= found <= 1.8 * best and found < sweep / 2


@pytest.mark.parametrize(
    "pattern", [Pattern(), ROW, Pattern(group=4, keep=2), Pattern(4, 1), Pattern(2, None)]
)
def test_larger_layers_lose_less_than_by_a_sweep(pattern: Pattern) -> None:
    ours = theirs = 0.0
    for seed in range(3):
        weight, h = layer(16, 64, seed, rows=300)
        ours += loss(alps(weight, h, pattern, 0.5), weight, h)
        theirs += loss(sparsegpt(weight, h, pattern, 0.5), weight, h)
    assert ours < theirs


def test_weights_are_the_best_of_their_support() -> None:
    weight, h = layer(6, 16)
    found = alps(weight, h, Pattern(), 0.4)
    assert int((found != 0).sum()) == int(96 * 0.4)
    for row in range(6):
        expected = solved(weight[row].numpy(), h.numpy(), found[row].numpy() != 0)
        assert np.allclose(found[row].numpy(), expected, atol=1e-8)


def test_inputs_of_very_different_size() -> None:
    weight, h = layer(8, 16)
    scale = torch.logspace(-3, 3, 16, dtype=torch.float64)
    found = alps(weight / scale, h * scale[:, None] * scale, Pattern(), 0.5)
    assert torch.allclose(found * scale, alps(weight, h, Pattern(), 0.5), atol=1e-6)
