"""ExactOBS against a loop with explicit inverses, a priority queue, and all masks there are."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
import torch
from solver_cases import best_row, layer, loss, solved
from torch import Tensor

from secateur.core.errors import RecipeError
from secateur.recover.weights import obc, sparsegpt
from secateur.units import Pattern


def trace(row: np.ndarray, h: np.ndarray) -> list[tuple[int, float]]:
    """Remove one weight at a time, each time solving for all that are left, anew."""
    keep, order, before = np.ones(len(row), dtype=bool), [], 0.0
    for _ in range(len(row)):
        losses = {}
        for p in np.flatnonzero(keep):
            trial = keep.copy()
            trial[p] = False
            change = (solved(row, h, trial) if trial.any() else 0 * row) - row
            losses[p] = float(change @ h @ change)
        p = min(losses, key=losses.__getitem__)
        order.append((int(p), losses[p] - before))
        keep[p], before = False, losses[p]
    return order


def reference(weight: Tensor, h: Tensor, kept: int) -> np.ndarray:
    """The mask of the cheapest next removal of all rows, by a priority queue."""
    traces = [trace(row.numpy(), h.numpy()) for row in weight]
    keep = np.ones(tuple(weight.shape), dtype=bool)
    heap = [(steps[0][1], row, 0) for row, steps in enumerate(traces)]
    heapq.heapify(heap)
    for _ in range(weight.numel() - kept):
        _, row, step = heapq.heappop(heap)
        keep[row, traces[row][step][0]] = False
        if step + 1 < weight.shape[1]:
            heapq.heappush(heap, (traces[row][step + 1][1], row, step + 1))
    return keep


@pytest.mark.parametrize("density", [0.7, 0.4, 0.15])
def test_rows_are_merged_as_by_a_queue_of_exact_losses(density: float) -> None:
    weight, h = layer(5, 12)
    found = obc(weight, h, Pattern(), density)
    keep = reference(weight, h, int(60 * density))
    assert np.array_equal(found.numpy() != 0, keep)
    for row in range(5):
        expected = solved(weight[row].numpy(), h.numpy(), keep[row])
        assert np.allclose(found[row].numpy(), expected, atol=1e-8)


def test_long_rows_agree_although_their_inverses_shrink() -> None:
    weight, h = layer(2, 60, rows=200)
    found = obc(weight, h, Pattern(group="row"), 0.3)
    for row in range(2):
        gone = [p for p, _ in trace(weight[row].numpy(), h.numpy())[:42]]
        assert set(np.flatnonzero(found[row].numpy() == 0)) == set(gone)


def test_patterns_keep_their_counts_at_every_tap() -> None:
    weight, h = layer(4, 6 * 2)
    kept = (obc(weight, h, Pattern(group=4, keep=2), 0.5, taps=2) != 0).reshape(4, 6, 2)
    assert (kept[:, :4].sum(1) == 2).all() and (kept[:, 4:].sum(1) == 1).all()
    banks = obc(weight, h, Pattern(group=3), 0.34, taps=2) != 0
    assert (banks.reshape(4, 2, 3, 2).sum(2) == 1).all()


def test_a_group_of_two_is_solved_as_by_all_masks() -> None:
    weight, h = layer(3, 2)
    found = obc(weight, h, Pattern(group=2, keep=1), 0.5)
    best = sum(best_row(row.numpy(), h.numpy(), 1) for row in weight)
    assert loss(found, weight, h) == pytest.approx(best)


def test_near_the_best_of_all_masks_and_better_than_sparsegpt() -> None:
    totals = np.zeros(3)
    for seed in range(6):
        weight, h = layer(4, 10, seed)
        row = Pattern(group="row")
        exact = sum(best_row(r.numpy(), h.numpy(), 5) for r in weight)
        solvers = (loss(f(weight, h, row, 0.5), weight, h) for f in (obc, sparsegpt))
        totals += (exact, *solvers)
    best, greedy, sweep = totals
    assert best <= greedy <= 1.8 * best and greedy < sweep / 2


def test_keeps_its_type_and_refuses_blocks() -> None:
    weight, h = layer(3, 6)
    assert obc(weight.float(), h, Pattern(), 0.5).dtype == torch.float32
    with pytest.raises(RecipeError, match="not blocks"):
        obc(weight, h, Pattern(rows=2), 0.5)
