"""Presets are recipes that attach takes; how they train is in test_session.py."""

from __future__ import annotations

import inspect

import pytest
from training import net, sgd

import secateur as sc
from secateur.train import presets

MADE = {
    "gmp": presets.gmp(0.9, end=10),
    "set": presets.set(0.9),
    "rigl": presets.rigl(0.9),
    "snfs": presets.snfs(0.9),
    "granet": presets.granet(0.9, end=10),
    "movement": presets.movement(0.9, end=10),
    "soft_movement": presets.soft_movement(),
    "ac_dc": presets.ac_dc(0.9, end=10, warmup=1, sparse=2, dense=2),
    "dpf": presets.dpf(0.9, end=10),
    "dns": presets.dns(0.9, end=10),
    "str_": presets.str_(),
    "topkast": presets.topkast(0.9),
    "sr_ste": presets.sr_ste(),
    "l0": presets.l0(),
    "pdp": presets.pdp(0.9, end=10),
}


@pytest.mark.parametrize("name", MADE)
def test_they_attach(name: str) -> None:
    model = net()
    sc.attach(model, sgd(model), MADE[name])


def test_all_are_here_and_say_whose_they_are() -> None:
    functions = {name for name in presets.__all__ if inspect.isfunction(getattr(presets, name))}
    assert functions == {*MADE, "wanda24", "lottery"}
    for name in functions:
        assert "20" in (getattr(presets, name).__doc__ or ""), name


def test_fields_of_the_recipe_go_first() -> None:
    recipe = presets.rigl(0.9, allocate="uniform", seed=3, grow="random")
    assert (recipe.allocate, recipe.seed, recipe.grow) == ("uniform", 3, "random")


def test_wanda24_is_for_prune_too() -> None:
    assert presets.wanda24(seed=2).given() == {
        "unit": sc.NM(2, 4), "criterion": "wanda", "seed": 2,
    }  # fmt: skip
