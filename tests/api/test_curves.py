"""The trade-off as a curve, and what each place can lose, on real digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import RecipeError
from secateur.demo.data import digits, trained

DATA = digits()


def right(model: nn.Module) -> Tensor:
    return (model(DATA.held_out_images).argmax(1) == DATA.held_out_labels).float()


def test_a_frontier_falls_with_the_cost(tmp_path: Path) -> None:
    front = sc.frontier(trained(), data=DATA.images[:64], evaluate=right, points=3, criterion="l1")
    assert len(front.points) == 3
    shares = [point.cost for point in front.points]
    assert shares == sorted(shares, reverse=True)
    assert front.points[0].quality > front.points[-1].quality
    assert front.points[0].quality > 0.97
    path = front.plot(tmp_path / "front.svg")
    assert path.read_text().startswith("<svg")


def test_a_frontier_has_no_budget() -> None:
    with pytest.raises(RecipeError, match="no budget"):
        sc.frontier(trained(), data=DATA.images[:8], evaluate=right, budget=sc.MACs("50%"))


def test_a_scan_covers_every_place_and_leaves_the_model() -> None:
    model = trained()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scope = sc.only("stage3.*")
    scan = sc.sensitivity(model, data=DATA.images[:40], levels=[0.5], scope=scope)
    plan = sc.plan(model, DATA.images[:1], budget=sc.Sparsity(0.9), allocate="uniform", scope=scope)
    assert {site for item in scan.sensed for site in item.kept} == set(plan.sites)
    assert all(item.error > 0 for item in scan.sensed)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("allocate", ["sensitivity", "search"])
def test_allocators_that_look_at_the_model(allocate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.search.workshop.SEARCH_CALLS", 4)
    result = sc.prune(
        trained(), data=DATA.images[:40], allocate=allocate, budget=sc.MACs("80%"),
        evaluate=right, latency=False, criterion="l1", scope=sc.only("stage3.*"),
    )  # fmt: skip
    assert result.after.macs is not None and result.before.macs is not None
    assert 0.7 < result.after.macs / result.before.macs <= 0.8
    assert result.quality is not None and result.quality.after > 0.6
