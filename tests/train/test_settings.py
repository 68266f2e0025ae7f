"""Defaults; what is refused is in test_attach.py."""

from __future__ import annotations

import pytest
from training import held, net

import secateur as sc
from secateur.core.recipe import Recipe
from secateur.train.forms import Hard, SoftMovement
from secateur.train.peers import Peers
from secateur.train.settings import Settings


def settings(**fields: object) -> Settings:
    return Settings.of(Recipe(**fields), held(net()), Peers())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "allocate", "schedule"),
    [
        ({"budget": sc.Sparsity(0.5)}, "global", sc.OneShot()),
        ({"budget": sc.Sparsity(0.5), "grow": "random"}, "erk", sc.Constant()),
        ({"unit": sc.NM(2, 4)}, "uniform", sc.OneShot()),
        ({"unit": sc.Weight("row"), "budget": sc.Sparsity(0.5)}, "uniform", sc.OneShot()),
        ({"form": SoftMovement()}, "global", sc.Constant()),
    ],
)
def test_defaults(fields: dict[str, object], allocate: str, schedule: sc.Constant) -> None:
    found = settings(**fields)
    assert (found.chooser.allocate, found.schedule) == (allocate, schedule)


def test_a_pattern_is_its_own_budget() -> None:
    assert settings(unit=sc.NM(2, 4)).sparsity == 0.5
    assert settings(unit=sc.NM(2, 4), budget=sc.Sparsity(0.5)).sparsity == 0.5


def test_without_a_recipe_masks_stay() -> None:
    found = Settings.of(None, held(net()), Peers())
    assert found.schedule is None and found.sparsity is None and found.form == Hard()


def test_densities_are_a_budget() -> None:
    names = ("0.weight", "3.weight", "5.weight")
    given = dict.fromkeys(names, 0.5)
    assert settings(allocate=given).chooser.allocate == given
    with pytest.raises(sc.SecateurError, match="nothing to a budget"):
        settings(allocate=given, budget=sc.Sparsity(0.5))


def test_a_function_is_a_criterion() -> None:
    found = settings(
        budget=sc.Sparsity(0.5), criterion=lambda site, facts: facts.tensors[site.name]
    )
    assert not found.criterion.needs
