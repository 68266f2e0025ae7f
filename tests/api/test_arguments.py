"""Arguments and their defaults."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.api.arguments import (
    REPAIRS,
    WITH_DATA,
    WITH_DATA_LARGE,
    WITHOUT_DATA,
    Arguments,
)
from secateur.api.weights import WeightArguments
from secateur.core.errors import InputError, RecipeError


def test_defaults_depend_on_data_and_size() -> None:
    small, large = nn.Linear(2, 2), nn.Linear(2000, 2600)
    assert Arguments.of().choices(large) == WITHOUT_DATA and Arguments.of().recover == ()
    given = Arguments.of(data=torch.zeros(8, 3))
    assert given.choices(small) == WITH_DATA and given.choices(large) == WITH_DATA_LARGE
    assert given.recover == REPAIRS and given.budget == sc.Sparsity(0.5)


def test_what_is_said_stays() -> None:
    net = nn.Linear(2, 2)
    given = Arguments.of(data=torch.zeros(8, 3), criterion="l2", recover=[])
    assert given.choices(net) == ("l2", "global") and given.recover == ()
    assert Arguments.of(data=torch.zeros(8, 3), allocate="erk").choices(net) == ("osscar", "erk")


def test_one_repair_needs_no_list() -> None:
    data = torch.zeros(8, 3)
    assert Arguments.of(data=data, recover=sc.Recalibrate()).recover == (sc.Recalibrate(),)
    found = WeightArguments.of(sc.Weight(), data=data, recover=sc.Recalibrate())
    assert found.recover == (sc.Recalibrate(),)
    with pytest.raises(RecipeError, match="repair"):
        Arguments.of(recover=sc.Recalibrate)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [sc.Weight(), sc.NM(1, 4)])
def test_weights_have_the_same_checks_and_usual_budgets(unit: Any) -> None:
    usual = WeightArguments.of(unit).budget
    assert usual == sc.Sparsity(0.75 if unit == sc.NM(1, 4) else 0.5)
    with pytest.raises(RecipeError) as caught:
        WeightArguments.of(unit, budget=0.5)
    assert caught.value.hint == f"for example {usual!r}"


def test_the_example_is_the_first_sample() -> None:
    net = nn.Linear(3, 2)
    given = Arguments.of(data=[(torch.arange(24.0).view(8, 3), torch.zeros(8))])
    call = given.call(net, None)
    assert call.args[0].tolist() == [[0.0, 1.0, 2.0]]
    assert given.call(net, torch.zeros(5, 3)).args[0].shape == (5, 3)


@pytest.mark.parametrize("budget", [0.5, "macs 50%", sc.MACs])
def test_what_is_no_budget(budget: Any) -> None:
    with pytest.raises(RecipeError, match="not a budget"):
        Arguments.of(budget=budget)


def test_neither_example_nor_data() -> None:
    with pytest.raises(InputError, match="neither an example nor data"):
        Arguments.of().call(nn.Linear(1, 1), None)


@pytest.mark.filterwarnings("ignore:no plan will be faster")  # a busy machine may think so
def test_latency_brings_a_table_of_the_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    given = Arguments.of(budget=sc.Latency("60%", batch=16))
    call = given.call(net, torch.randn(1, 256))
    cost = given.workshop(net, call).decider.cost
    assert cost.table is not None and cost.total({}).ns >= cost.total({"0": 64}).ns > 0
    assert Arguments.of(budget=sc.MACs("60%")).workshop(net, call).decider.cost.table is None
