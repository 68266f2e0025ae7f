"""A plan in force, reversibly."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from apply_nets import Attention, Snapshot, Tied, convnet, half, images, mlp, outputs, points
from torch import nn

import secateur as sc
from secateur.core.errors import StalePlan

CASES: dict[str, tuple[Any, Any]] = {
    "mlp": (mlp, points),
    "convnet": (convnet, images),
    "attention": (Attention, lambda: torch.randn(2, 5, 8)),
    "tied": (Tied, lambda: torch.randint(0, 11, (2, 5))),
}


@pytest.mark.parametrize("case", CASES)
def test_undo_restores_every_bit(case: str) -> None:
    make, example = CASES[case]
    model = make()
    plan, before = half(model, example()), Snapshot(model)
    applied = sc.mask(model, plan)
    assert any((p == 0).any() for p in model.parameters())
    applied.undo()
    before.check()
    applied.undo()  # a second time does nothing
    before.check()


def test_shapes_names_and_modes_stay() -> None:
    model = convnet().train()
    plan, state = half(model, images()), model.state_dict()
    shapes = {name: value.shape for name, value in state.items()}
    with sc.mask(model, plan):
        assert {name: value.shape for name, value in model.state_dict().items()} == shapes
        assert model.training


def test_exactly_the_removed_slices_are_zero() -> None:
    model = mlp()
    plan = half(model, points())
    with sc.mask(model, plan):
        first, second = plan.sites["0"].mask, plan.sites["2"].mask
        assert torch.equal(model[0].weight.ne(0).any(1), torch.from_numpy(first))
        assert torch.equal(model[0].bias.ne(0), torch.from_numpy(first))
        expected = torch.from_numpy(second)[:, None] & torch.from_numpy(first)
        assert torch.equal(model[2].weight.ne(0), expected)
        assert torch.equal(model[4].weight.ne(0).any(0), torch.from_numpy(second))
        assert model[4].bias.ne(0).all()


def test_buffers_are_not_touched() -> None:
    model = convnet()
    running = model[1].running_mean.clone()
    with sc.mask(model, half(model, images())):
        assert torch.equal(model[1].running_mean, running)


@pytest.mark.parametrize("case", ["mlp", "convnet", "tied"])
def test_masked_equals_cut(case: str) -> None:
    make, example = CASES[case]
    model, given = make().double(), example()
    given = given.double() if given.is_floating_point() else given
    plan, small = half(model, given), copy.deepcopy(model)
    sc.cut(small, plan)
    with sc.mask(model, plan):
        assert torch.allclose(outputs(model, given), outputs(small, given), rtol=1e-10)


def test_undone_when_the_block_raises() -> None:
    model = mlp()
    plan, before = half(model, points()), Snapshot(model)
    with pytest.raises(ZeroDivisionError), sc.mask(model, plan):
        1 / 0
    before.check()


def test_masks_within_masks() -> None:
    model = mlp()
    plans, before = [half(model, points(), seed=seed) for seed in (0, 1)], Snapshot(model)
    with sc.mask(model, plans[0]):
        inner = Snapshot(model)
        with sc.mask(model, plans[1]):
            pass
        inner.check()
    before.check()


def test_training_with_a_mask_and_without() -> None:
    """A mask sets values once: it is no constraint on training, and undo restores the slices."""
    model = mlp()
    plan = half(model, points())
    removed = torch.from_numpy(~plan.sites["0"].mask)
    old = model[0].weight.detach().clone()
    with sc.mask(model, plan):
        model(points()).sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert torch.equal(model[0].weight[removed], old[removed])


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_has_no_zero_direction(dim: int | None) -> None:
    norm = torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(norm(nn.Linear(6, 8), dim=dim), nn.ReLU(), nn.Linear(8, 3))
    plan = half(model, points())
    with sc.mask(model, plan):
        assert outputs(model, points()).isfinite().all()


def test_weight_norm_of_old() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        norm = torch.nn.utils.weight_norm
        model = nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).double()
    x = points().double()
    plan = half(model, x)
    with sc.mask(model, plan):
        masked = outputs(model, x)
    sc.cut(model, plan)
    assert torch.allclose(outputs(model, x), masked)


def test_another_model_is_refused_untouched() -> None:
    plan = half(mlp(), points())
    other = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    before = Snapshot(other)
    with pytest.raises(StalePlan, match="does not fit"):
        sc.mask(other, plan)
    before.check()
