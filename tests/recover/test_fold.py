"""Copies are merged without loss, everything else into what is most like it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from repair_nets import Attention, Recurrent, Residual, duplicate, error, shrink, unsettle
from torch import nn

from secateur.core.batches import as_call
from secateur.graph.analyze import analyze
from secateur.recover import Fold, Job
from secateur.recover.fold import nearest

S = nn.Sequential
CASES: dict[str, tuple[Any, tuple[int, ...], list[str] | None]] = {
    "linear": (lambda: S(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), (20, 6), None),
    "norms": (
        lambda: S(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False),
                  nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1)),
        (20, 3, 9, 9), None,
    ),
    "flattened": (
        lambda: S(nn.Conv2d(3, 4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)),
        (20, 3, 9, 9), None,
    ),
    "grouped": (
        lambda: S(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, groups=2)),
        (20, 3, 9, 9), ["0.1"],
    ),
    "transposed": (
        lambda: S(nn.ConvTranspose2d(3, 8, 3, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3)),
        (20, 3, 5, 5), None,
    ),
    "residual": (Residual, (20, 3, 8, 8), None),
    "heads": (Attention, (20, 5, 16), ["q.head", "up"]),
    "values": (Attention, (20, 5, 16), ["v.1"]),
    "LSTM": (lambda: Recurrent(nn.LSTM), (20, 7, 5), None),
    "GRU": (lambda: Recurrent(nn.GRU), (20, 7, 5), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("data", [True, False])
def test_copies_are_merged_without_loss(name: str, data: bool) -> None:
    build, shape, leaves = CASES[name]
    torch.manual_seed(0)
    model, x = unsettle(build()), torch.randn(shape)
    graph = analyze(model, as_call(model, x[:3]))
    if leaves is None:
        leaves = [leaf for leaf, axis in graph.axes.items() if axis.frozen is None]
    cut = shrink(model, x[:3], {leaf: duplicate(model, graph, leaf) for leaf in leaves})
    before = error(model, cut.small, x)
    job = cut.job([x]) if data else Job(model, cut.small, cut.plan, cut.graph.roles, None)
    Fold().run(job)
    assert before > 0.02 and error(model, cut.small, x) < 1e-5
    assert job.notes[0].startswith("folding: distance" if data else "folding: done, not checked")


def test_scaled_copies_before_a_relu_are_merged_without_loss() -> None:
    torch.manual_seed(0)
    model = S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for k, factor in ((5, 3.0), (6, 0.2), (7, 1.0)):
            model[0].weight[k] = factor * model[0].weight[k - 4]
            model[0].bias[k] = factor * model[0].bias[k - 4]
    x = torch.randn(20, 6)
    cut = shrink(model, x, {"0": [5, 6, 7]})
    Fold().run(cut.job([x]))
    assert error(model, cut.small, x) < 1e-5


def test_scaled_norms_are_merged_without_loss() -> None:
    """The norm takes the scale of the weights away and sets its own."""
    torch.manual_seed(0)
    model = unsettle(S(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)))
    with torch.no_grad():
        model[0].weight[3] = 5 * model[0].weight[1]
        model[0].bias[3] = 5 * model[0].bias[1] + 1
        norm = model[1]
        norm.running_mean[3] = 5 * norm.running_mean[1] + 1
        norm.running_var[3] = 25 * (norm.running_var[1] + norm.eps) - norm.eps
        norm.weight[3], norm.bias[3] = 2 * norm.weight[1], 2 * norm.bias[1]
    x = torch.randn(20, 6)
    cut = shrink(model, x, {"0": [3]})
    cut.plan = type(cut.plan)(
        cut.plan.fingerprint, cut.plan.sites, cut.plan.layouts, example=as_call(model, x[:2])
    )
    Fold().run(Job(model, cut.small, cut.plan, cut.graph.roles, None))
    assert error(model, cut.small, x) < 1e-5


def test_the_factor_is_the_one_that_fits() -> None:
    rows = torch.randn(7, 5).double()
    kept, gone = torch.tensor([0, 2, 3, 6]), torch.tensor([1, 4, 5])
    target, factor = nearest(rows, kept, gone)
    for k, row in enumerate(rows[gone].numpy()):
        fits = [np.linalg.lstsq(other[:, None], row, rcond=None) for other in rows[kept].numpy()]
        left = [fit[1][0] if fit[0][0] > 0 else row @ row for fit in fits]
        assert left[int(target[k])] == pytest.approx(min(left))
        assert float(factor[k]) == pytest.approx(max(0.0, fits[int(target[k])][0][0]))


def test_what_is_like_nothing_is_dropped() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.6, 0.8]])
    _, factor = nearest(rows, torch.tensor([0]), torch.tensor([1, 2]), least=0.7)
    assert factor.tolist() == [0, 0]
    _, factor = nearest(rows, torch.tensor([0]), torch.tensor([1, 2]))
    assert factor.tolist() == [0, pytest.approx(0.6)]


def test_where_nothing_was_removed_nothing_is_folded() -> None:
    model, x = S(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(20, 6)
    job = shrink(model, x, {}).job([x])
    Fold().run(job)
    assert job.notes == ["folding: nothing was removed"]
