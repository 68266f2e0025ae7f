"""Recipes: what is refused whatever the model, and what a verb is given."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

import secateur as sc


def test_only_what_differs_is_given() -> None:
    recipe = sc.Recipe(unit=sc.NM(2, 4), seed=3)
    assert recipe.given() == {"unit": sc.NM(2, 4), "seed": 3}


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        sc.Recipe().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"budget": 0.9}, "not a budget"),
        ({"schedule": "cubic"}, "not a schedule"),
        ({"criterion": 3}, "criterion"),
        ({"grow": "gradients"}, "did you mean gradient"),
        ({"drop": 0}, "drop=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.0}, "seed=1.0"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, object], what: str) -> None:
    with pytest.raises(sc.SecateurError, match=what):
        sc.Recipe(**fields)  # type: ignore[arg-type]
