"""Ranks are what removal does, measured; the rest is said to be unmeasured."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(120, 5)
    labels = net(x).argmax(1)
    with torch.no_grad():
        net[0].weight[6], net[0].bias[6] = net[0].weight[2], net[0].bias[2]
        net[2].weight[:, 4] = 0
    return net, x, labels


def test_effects_by_hand(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    found = sc.rank_units(net, [(x[:70], y[:70]), (x[70:], y[70:])])
    assert len(found.units) == 8
    with torch.no_grad():
        hidden = net[1](net[0](x))
        for unit in found.units:
            changed = hidden.clone()
            changed[:, unit.unit] = hidden[:, unit.unit].mean()
            right = (net[2](hidden).argmax(1) == y).double()
            fall = right - (net[2](changed).argmax(1) == y).double()
            rise = cross_entropy(net[2](changed), y) - cross_entropy(net[2](hidden), y)
            assert unit.effect == pytest.approx(fall.mean().item())
            assert unit.loss == pytest.approx(rise.item(), abs=1e-5)
            wanted = [fall[y == c].mean().item() for c in found.classes]
            assert unit.by_class == pytest.approx(tuple(wanted))
            assert set(unit.examples) == set(hidden[:, unit.unit].topk(3).indices.tolist())
    effects = [unit.effect or 0.0 for unit in found.units]
    assert effects == sorted(effects, reverse=True)
    dead = next(unit for unit in found.units if unit.unit == 4)
    assert dead.effect == 0
    assert [(t.first, t.second, t.merged) for t in found.twins] == [(2, 6, None)]
    label = found.classes[0]
    column = [unit.by_class[0] for unit in found.of_class(label)]
    assert column == sorted(column, reverse=True)
    assert json.loads(json.dumps(found.to_dict()))["units"][0]["site"] == "0"


def test_a_plan_says_what_stayed(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    result = sc.prune(net, x, criterion="l2", budget=sc.Sparsity(0.5), latency=False)
    found = sc.rank_units(net, [(x, y)], plan=result.plan)
    kept = {unit.unit for unit in found.units if unit.kept}
    assert kept == set(result.plan.sites["0"].keep.tolist())
    (pair,) = found.twins
    assert pair.merged == ((2 in kept) != (6 in kept))
    assert "stays" in str(found)


def test_what_is_not_measured_comes_last(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = case
    found = sc.rank_units(net, [(x, y)], lambda out, y: out[:, 0], most=3)
    assert [unit.effect is not None for unit in found.units] == [True] * 3 + [False] * 5
    assert all(unit.loss is None for unit in found.units)
    assert "5 units with small estimates" in str(found)


def test_images_are_shown() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
    x = torch.rand(20, 1, 6, 6)
    found: Any = sc.rank_units(net, [(x, torch.arange(20) % 3)], examples=2)
    assert len(found.pictures) == 8
    assert found.panel.pictures == found.pictures
    assert found.pictures[0].caption.startswith(found.units[0].name + ": sample ")
    assert "<table>" in found._repr_html_()
