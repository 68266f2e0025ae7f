"""Frontiers of a real network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from building import Case, digits_case
from torch import nn

from secateur.core.budget import MACs, Params
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.frontier import Point
from secateur.measure.metric import Loss
from secateur.search.frontier import frontier
from secateur.search.trial import Trial


@pytest.fixture(scope="module")
def case() -> Case:
    return digits_case()


def test_points_are_spread_and_measured_on_all_data(case: Case) -> None:
    seen: list[Point] = []
    found = frontier(case.build, case.model, case.right, points=4, on_point=seen.append)
    assert [point.share for point in found.points] == pytest.approx(
        [0.9, 0.9 - 0.8 / 3, 1.1 / 3, 0.1]
    )
    whole = found.dense.macs
    assert all(point.macs <= point.share * whole for point in found.points)
    assert all(point.macs >= 0.9 * point.share * whole for point in found.points)
    assert found.dense.quality == pytest.approx(case.accuracy(case.model))
    assert found.samples == 450
    assert len(seen) == 4
    last = case.build(MACs("10%"))
    assert found.points[-1].quality == pytest.approx(case.accuracy(last.model))
    assert found.points[-1].quality < found.dense.quality
    assert not found.points[-1].dominated


@pytest.mark.parametrize("cost", ["params", "bytes"])
def test_over_other_costs(case: Case, cost: str) -> None:
    found = frontier(case.build, case.model, case.accuracy, cost=cost, points=2, low=0.3, high=0.6)
    for point, share in zip(found.points, (0.6, 0.3), strict=True):
        assert point.cost == getattr(point, cost) <= share * found.dense.cost
    assert found.samples is None


def test_a_loss_is_better_when_lower(case: Case) -> None:
    loss = Loss([(case.data.held_out_images, case.data.held_out_labels)])
    found = frontier(case.build, case.model, loss, points=2, low=0.1, high=0.5)
    assert found.lower_is_better
    assert found.points[-1].quality > found.dense.quality
    assert not found.points[-1].dominated


def test_over_latency_every_network_is_timed(case: Case) -> None:
    found = frontier(
        case.build, case.model, case.right, cost="latency", points=2, example=case.call, batch=3,
        threads=1,
    )  # fmt: skip
    assert all(point.cost == point.latency_ms for point in (found.dense, *found.points))
    assert all(point.latency_error_ms for point in found.points)
    assert found.chart.x_label == "milliseconds"


def test_what_cannot_be_built_is_noted(case: Case) -> None:
    def stubborn(budget: Any) -> Trial:
        if budget.ceiling(1000) < 300:
            raise InfeasibleBudget("the least is 30%")
        return case.build(budget)

    found = frontier(stubborn, case.model, case.right, points=3)
    assert len(found.points) == 2
    assert found.notes == ("no network keeps only 10.0%: the least is 30%",)
    with pytest.raises(InfeasibleBudget, match="the least is 30%"):
        frontier(stubborn, case.model, case.right, points=1, low=0.1, high=0.1)


def test_the_same_network_is_measured_once() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)).eval()
    from building import Builder

    build = Builder(model, torch.zeros(2, 4))
    found = frontier(build, model, lambda m: 1.0, points=5, low=0.5, high=0.99)
    assert len(found.points) == 1
    assert isinstance(build.asked[0], (MACs, Params))


@pytest.mark.parametrize(
    "arguments",
    [{"cost": "flops"}, {"points": 0}, {"points": 1.5}, {"low": 0}, {"high": 2}, {"low": 0.95},
     {"cost": "latency"}],
)  # fmt: skip
def test_wrong_arguments(case: Case, arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        frontier(case.build, case.model, case.right, **arguments)
