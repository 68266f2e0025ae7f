"""The single steps: inspect, plan, cut."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import RecipeError, StalePlan

FAST: dict[str, Any] = {"latency": False}


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(
        conv=nn.Conv2d(3, 12, 3, padding=1), norm=nn.BatchNorm2d(12), act=nn.ReLU(),
        deep=nn.Conv2d(12, 8, 3, padding=1), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(), drop=nn.Dropout(0.5), fc=nn.Linear(8, 3),
    ))  # fmt: skip


@pytest.fixture
def net() -> nn.Sequential:
    return make().train()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def test_plans_fit_by_fingerprint(net: nn.Module, x: Tensor) -> None:
    plan = sc.plan(net, x)
    trained = make()
    assert sc.cut(trained, plan, x).ok, "values do not matter"
    for other in (trained, make().double(), nn.Sequential(make())):
        before = [p.shape for p in other.parameters()]
        for verb in (sc.cut, sc.mask):
            with pytest.raises(StalePlan, match="hint: "):
                verb(other, plan)
        assert [p.shape for p in other.parameters()] == before


def test_plan_and_cut_are_prune(net: nn.Module, x: Tensor) -> None:
    plan, result = sc.plan(net, x), sc.prune(net, x, **FAST)
    assert plan == result.plan
    sc.cut(net, plan, x)
    for a, b in zip(net.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_inspection_touches_nothing_and_says_much(net: nn.Module, x: Tensor) -> None:
    text = str(sc.inspect(net, x))
    assert "channels" in text and "conv" in text and "frozen" in text
    assert sc.inspect(net, x).whole.params == sum(p.numel() for p in net.parameters())
    assert sc.inspect(net, x, latency=True).whole.latency.median_ms > 0


def test_a_plan_goes_to_disk_and_back(net: nn.Module, x: Tensor) -> None:
    plan = sc.plan(net, x, budget=sc.MACs("50%"))
    again = sc.Plan.from_json(plan.to_json())
    assert again == plan and again.to_json() == plan.to_json()
    direct, replayed = make(), make()
    replayed.load_state_dict(direct.state_dict())
    assert sc.cut(direct, plan, x).ok and sc.cut(replayed, again, x).ok
    direct.eval(), replayed.eval()
    assert torch.equal(direct(x), replayed(x))
    shapes = {name: tuple(p.shape) for name, p in direct.named_parameters()}
    assert all(plan.shape(name) == shapes[name] for name in plan.layouts if name in shapes)


def test_a_plan_needs_a_budget_that_can_be_counted(net: nn.Sequential, x: Tensor) -> None:
    for budget in (sc.Drop(points=1), sc.Latency("50%"), sc.MACs("50%") & sc.Drop(points=1)):
        with pytest.raises(RecipeError, match="has to be measured"):
            sc.plan(net, x, budget=budget)


def test_a_plan_from_data_is_the_one_that_prune_makes(net: nn.Sequential) -> None:
    data = [torch.randn(40, 3, 8, 8)]
    plan = sc.plan(net.eval(), data=data, budget=sc.MACs("50%"))
    result = sc.prune(net, data=data, budget=sc.MACs("50%"), recover=[], **FAST)
    assert plan.sites == result.plan.sites
