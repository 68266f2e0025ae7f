"""Layers whose zeros stay: the best values by numpy, and repairs that can be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from repair_nets import Attention, Recurrent, Residual, unsettle
from torch import Tensor, nn

from secateur.core.plan import Plan, fingerprint
from secateur.core.tensors import light_copy, own_memory
from secateur.measure.calibration import calibration
from secateur.recover import Job, Reconstruct
from secateur.recover.masked import solve_masked, solve_sparse
from secateur.recover.solve import Sums
from secateur.recover.weights import alps
from secateur.units import Pattern, weight_sites


def sums(x: Tensor, r: Tensor) -> Sums:
    found = Sums()
    found.add(x[None], r[None])
    return found


def masked(model: nn.Module, density: float = 0.5, seed: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """A copy with random zeros, and where they are not."""
    small = light_copy(model)
    own_memory(small, model)
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for site in weight_sites(model):
        masks[site.name] = torch.rand(site.shape, generator=generator) < density
        with torch.no_grad():
            small.get_parameter(site.name).mul_(masks[site.name])
    return small, masks


def job(model: nn.Module, small: nn.Module, masks: dict[str, Tensor], x: Any) -> Job:
    plan = Plan(fingerprint(model), {})
    return Job(model, small, plan, {}, calibration(model, [x]), masks=masks)


@pytest.mark.parametrize("intercept", [True, False])
def test_agrees_with_least_squares_of_numpy_row_by_row(intercept: bool) -> None:
    x = torch.randn(400, 6, dtype=torch.float64) + 0.5
    wanted = x @ torch.randn(6, 4, dtype=torch.float64) + 2
    keep = torch.rand(1, 4, 6) < 0.6
    weight = torch.randn(1, 4, 6, dtype=torch.float64) * keep
    lacking = wanted - x @ weight[0].T
    found = solve_masked(sums(x, lacking), sums(x, lacking), weight, keep, intercept=intercept)
    assert found is not None and found.ridge <= 1e-4
    new = weight + found.change.mT
    for row in range(4):
        columns = x[:, keep[0, row]].numpy()
        if intercept:
            columns = np.concatenate([columns, np.ones((400, 1))], 1)
        best = np.linalg.lstsq(columns, wanted[:, row].numpy(), rcond=None)[0]
        count = int(keep[0, row].sum())
        assert np.allclose(new[0, row, keep[0, row]].numpy(), best[:count], atol=1e-3)
        if intercept:
            assert found.shift is not None
            assert float(found.shift[0, row]) == pytest.approx(best[-1], abs=1e-3)
    assert not new[~keep].any()


def test_what_does_not_help_on_held_out_rows_is_no_solution() -> None:
    x, weight = torch.randn(50, 3), torch.zeros(1, 2, 3)
    keep = torch.ones(1, 2, 3, dtype=torch.bool)
    fit, held = sums(x, x @ torch.ones(3, 2)), sums(x, -x @ torch.ones(3, 2))
    assert solve_masked(fit, held, weight, keep, intercept=False) is None
    assert solve_masked(Sums(), held, weight, keep, intercept=False) is None


def test_a_solver_starts_from_what_the_dense_network_gives() -> None:
    x = torch.randn(400, 6, dtype=torch.float64)
    weight, moved = torch.randn(2, 1, 3, 6, dtype=torch.float64)
    lacking = x @ (moved - weight)[0].T
    found = solve_sparse(
        sums(x, lacking), sums(x, lacking), weight, alps, Pattern(), 1.0, 1, intercept=False
    )
    assert torch.allclose(weight + found.change.mT, moved, atol=0.05)
    assert found.after < 0.01 * found.before


def test_without_inputs_a_solver_goes_by_magnitudes() -> None:
    weight = torch.tensor([[[1.0, -3.0, 2.0, 0.5]]])
    zeros = sums(torch.zeros(9, 4), torch.zeros(9, 1))
    for rows in (Sums(), zeros):
        found = solve_sparse(rows, zeros, weight, alps, Pattern(), 0.5, 1, intercept=False)
        assert (weight + found.change.mT).flatten().tolist() == [0, -3, 2, 0]


NETS: dict[str, tuple[Any, tuple[int, ...], float]] = {  # and the distance left, of the masks'
    "convolutions": (lambda: unsettle(Residual()), (80, 3, 8, 8), 0.1),
    "attention": (Attention, (400, 7, 16), 0.97),  # random queries and keys cannot be made up for
    "LSTM": (lambda: Recurrent(nn.LSTM), (80, 9, 5), 0.6),
    "GRU": (lambda: Recurrent(nn.GRU, bidirectional=True), (80, 9, 5), 0.6),
}


@pytest.mark.parametrize("name", list(NETS))
def test_repair_keeps_every_zero_and_comes_closer(name: str) -> None:
    make, shape, left = NETS[name]
    model = make().eval()
    small, masks = masked(model)
    work = job(model, small, masks, torch.randn(shape))
    start = work.distance
    Reconstruct().run(work)
    assert work.distance < left * start
    for key, mask in masks.items():
        weight = small.get_parameter(key)
        assert not weight[~mask].any()


def test_a_second_repair_finds_the_first_ones_shift_in_the_norm() -> None:
    model = unsettle(Residual())
    small, masks = masked(model)
    work = job(model, small, masks, torch.randn(80, 3, 8, 8))
    Reconstruct().run(work)
    first = work.distance
    means = [m.running_mean.clone() for m in small.modules() if isinstance(m, nn.BatchNorm2d)]
    Reconstruct().run(work)
    assert work.distance <= first
    for module, mean in zip(
        (m for m in small.modules() if isinstance(m, nn.BatchNorm2d)), means, strict=True
    ):
        assert torch.allclose(module.running_mean, mean, atol=0.05 * float(mean.abs().max()))
