"""Arguments and their defaults."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.api.recipe import (
    REPAIRS,
    WITH_DATA,
    WITH_DATA_LARGE,
    WITHOUT_DATA,
    Recipe,
)
from secateur.core.errors import InputError, RecipeError


def test_defaults_depend_on_data_and_size() -> None:
    small, large = nn.Linear(2, 2), nn.Linear(2000, 2600)
    assert Recipe.of().choices(large) == WITHOUT_DATA and Recipe.of().recover == ()
    given = Recipe.of(data=torch.zeros(8, 3))
    assert given.choices(small) == WITH_DATA and given.choices(large) == WITH_DATA_LARGE
    assert given.recover == REPAIRS and given.budget == sc.Sparsity(0.5)


def test_what_is_said_stays() -> None:
    net = nn.Linear(2, 2)
    recipe = Recipe.of(data=torch.zeros(8, 3), criterion="l2", recover=[])
    assert recipe.choices(net) == ("l2", "global") and recipe.recover == ()
    assert Recipe.of(data=torch.zeros(8, 3), allocate="erk").choices(net) == ("osscar", "erk")


def test_the_example_is_the_first_sample() -> None:
    net = nn.Linear(3, 2)
    recipe = Recipe.of(data=[(torch.arange(24.0).view(8, 3), torch.zeros(8))])
    call = recipe.call(net, None)
    assert call.args[0].tolist() == [[0.0, 1.0, 2.0]]
    assert recipe.call(net, torch.zeros(5, 3)).args[0].shape == (5, 3)


@pytest.mark.parametrize("budget", [0.5, "macs 50%", sc.MACs])
def test_what_is_no_budget(budget: Any) -> None:
    with pytest.raises(RecipeError, match="not a budget"):
        Recipe.of(budget=budget)


def test_neither_example_nor_data() -> None:
    with pytest.raises(InputError, match="neither an example nor data"):
        Recipe.of().call(nn.Linear(1, 1), None)


@pytest.mark.filterwarnings("ignore:no plan will be faster")  # a busy machine may think so
def test_latency_brings_a_table_of_the_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    recipe = Recipe.of(budget=sc.Latency("60%", batch=16))
    call = recipe.call(net, torch.randn(1, 256))
    cost = recipe.workshop(net, call).decider.cost
    assert cost.table is not None and cost.total({}).ns >= cost.total({"0": 64}).ns > 0
    assert Recipe.of(budget=sc.MACs("60%")).workshop(net, call).decider.cost.table is None
