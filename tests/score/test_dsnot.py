"""Exchanges of DSnoT, against the paper's loop for one row at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.score.dsnot import dsnot


def reference(w: Tensor, keep: Tensor, m: Tensor, v: Tensor, score: Tensor) -> Tensor:
    keep = keep.clone()
    for _ in range(50):
        error = float((w * m)[~keep].sum())
        if abs(error) <= 0.1:
            break
        sign = 1 if error > 0 else -1
        gone = [j for j in range(len(w)) if not keep[j]]
        grow = max(gone, key=lambda j: float(sign * w[j] * m[j] / v[j]))
        if sign * w[grow] * m[grow] <= 0:
            break
        left = error - float(w[grow] * m[grow])
        fit = [j for j in range(len(w)) if keep[j] and left * float(w[j] * m[j]) < 0]
        if not fit:
            break
        drop = min(fit, key=lambda j: float(score[j]))
        if abs(left + float(w[drop] * m[drop])) >= abs(error):
            break
        keep[grow], keep[drop] = True, False
    return keep


def test_rows_agree_with_the_loop_and_come_closer() -> None:
    w, m, v = torch.randn(20, 12), torch.randn(1, 12) * 2, torch.rand(1, 12) + 0.5
    score = w.abs() * (v + m.square()).sqrt()
    keep = torch.zeros(20, 12, dtype=torch.bool)
    keep.scatter_(1, score.argsort(1, descending=True)[:, :6], True)
    found = dsnot(w, keep, m, v, score)
    for row in range(20):
        assert torch.equal(found[row], reference(w[row], keep[row], m[0], v[0], score[row]))
    before, after = (((w * m) * ~k).sum(1).abs() for k in (keep, found))
    assert (after <= before).all() and bool((after < before).any())
    assert (found.sum(1) == 6).all()


def test_nothing_changes_where_means_are_nothing() -> None:
    w, keep = torch.randn(3, 4), torch.rand(3, 4) < 0.5
    assert torch.equal(dsnot(w, keep, torch.zeros(1, 4), torch.ones(1, 4), w.abs()), keep)


def test_everything_kept_or_gone() -> None:
    w, m = torch.randn(2, 4), torch.ones(1, 4)
    for keep in (torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)):
        assert torch.equal(dsnot(w, keep, m, m, w.abs()), keep)
