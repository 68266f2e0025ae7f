"""SparseGPT against a plain loop that inverts what is left of the Hessian at every column."""

from __future__ import annotations

import pytest
import torch
from solver_cases import layer, loss
from torch import Tensor

from secateur.recover.weights import fixed_support, sparsegpt
from secateur.recover.weights.sparsegpt import inverse_factor
from secateur.units import Pattern


def reference(weight: Tensor, h: Tensor, block: int, density: float, row: bool) -> Tensor:
    """The paper's step, column by column, each with the inverse for the columns still open."""
    w, (out, k) = weight.clone(), weight.shape
    inverses = [torch.linalg.inv(h[j:, j:]) for j in range(k)]
    kept = seen = 0
    keep = torch.zeros(out, k, dtype=torch.bool)
    for j in range(k):
        if j % block == 0:
            stop = min(j + block, k)
            cost = torch.stack([w[:, i].square() / inverses[i][0, 0] for i in range(j, stop)], 1)
            total = int((density * (seen + cost.numel()) - kept) + 1e-9)
            if row:
                best = cost.argsort(1, descending=True)[:, : total // out]
                keep[:, j:stop].scatter_(1, best, True)
            else:
                best = cost.flatten().argsort(descending=True)[:total]
                keep[:, j:stop] |= (
                    torch.zeros(cost.numel(), dtype=torch.bool).scatter(0, best, True).view_as(cost)
                )
            kept, seen = int(keep.sum()), seen + cost.numel()
        gone = torch.where(keep[:, j], 0, w[:, j])
        w[:, j:] -= torch.outer(gone / inverses[j][0, 0], inverses[j][0])
        w[:, j] = torch.where(keep[:, j], w[:, j], 0)
    return w


@pytest.mark.parametrize("row", [False, True])
@pytest.mark.parametrize(("block", "density"), [(128, 0.5), (8, 0.5), (8, 0.2)])
def test_agrees_with_a_plain_loop(row: bool, block: int, density: float) -> None:
    weight, h = layer(10, 20)
    pattern = Pattern(group="row" if row else None)
    found = sparsegpt(weight, h, pattern, density, block=block)
    expected = reference(weight, h, block, density, row)
    assert torch.equal(found != 0, expected != 0)
    assert torch.allclose(found, expected, atol=1e-8)
    assert torch.allclose(
        sparsegpt(weight.float(), h.float(), pattern, density, block=block).double(),
        expected, atol=1e-4,
    )  # fmt: skip


def test_patterns_agree_with_a_plain_loop() -> None:
    weight, h = layer(6, 16)
    found = sparsegpt(weight, h, Pattern(group=4, keep=2), 0.5)
    expected = reference(weight, h, 4, 0.5, row=True)
    assert torch.allclose(found, expected, atol=1e-8)


def test_kernel_taps_group_along_channels() -> None:
    weight, h = layer(5, 6 * 3)
    found = sparsegpt(weight, h, Pattern(group=4, keep=2), 0.5, taps=3)
    kept = (found != 0).reshape(5, 6, 3).transpose(1, 2)  # out, taps, channels
    assert (kept[..., :4].sum(-1) == 2).all() and (kept[..., 4:].sum(-1) == 1).all()


def test_counts_hold_over_uneven_blocks() -> None:
    weight, h = layer(7, 30)
    assert int((sparsegpt(weight, h, Pattern(), 0.3, block=8) != 0).sum()) == int(7 * 30 * 0.3)


@pytest.mark.parametrize("columns", [1, 2, None])
def test_blocks_stay_or_go_as_one(columns: int | None) -> None:
    weight, h = layer(8, 12)
    kept = sparsegpt(weight, h, Pattern(4, columns), 0.5) != 0
    cells = kept.reshape(2, 4, -1, columns or 12).float().mean((1, 3))
    assert set(cells.unique().tolist()) == {0, 1} and kept.float().mean() == 0.5


def test_is_better_than_the_same_mask_alone_and_no_better_than_its_best_weights() -> None:
    weight, h = layer(16, 24)
    found = sparsegpt(weight, h, Pattern(), 0.4)
    best = fixed_support(weight @ h, h, found != 0)
    swept, exact, alone = (loss(w, weight, h) for w in (found, best, weight * (found != 0)))
    assert exact <= swept < alone


def test_the_factor_is_that_of_the_inverse() -> None:
    _, h = layer(1, 9)
    upper = inverse_factor(h)
    assert torch.allclose(upper.T @ upper @ h, torch.eye(9, dtype=torch.float64), atol=1e-8)
    assert not upper.tril(-1).any()


def test_few_blocks_are_not_kept_in_every_piece() -> None:
    weight, h = layer(4, 3 * 9)
    kept = sparsegpt(weight, h, Pattern(4, 3), 0.12, taps=9) != 0
    assert int(kept.sum()) == 12  # one block of nine
