"""Where weights go when kernels' times count."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from secateur.core.errors import InfeasibleBudget
from secateur.core.weight_site import WeightSite
from secateur.search.packing import (
    DENSITIES,
    densities_for,
    levels,
    predicted,
    removed_energy,
)
from secateur.search.weight_scan import LEVELS
from secateur.units import NM, Block, Weight
from secateur.units.pattern import Pattern


@dataclass
class Table:
    """Two layers that gain in proportion, and one that gains nothing."""

    densities: tuple[float, ...] = (*DENSITIES, 1.0)
    layers: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"a": ("a.weight",), "b": ("b.x", "b.y"), "slow": ("slow.weight",)}
    )
    rest_ms: float = 1.0
    whole_ms: float = 11.0

    @property
    def ms(self) -> dict[str, tuple[float, ...]]:
        falling = tuple(4 * d if d < 1 else 4.0 for d in self.densities)
        return {"a": falling, "b": falling, "slow": (2.0,) * len(self.densities)}


NAMES = ("a.weight", "b.x", "b.y", "slow.weight", "unread")


def errors(steep: float = 1.0) -> dict[str, np.ndarray]:
    return {name: (1 - np.array(LEVELS)) * (steep if name == "a.weight" else 1) for name in NAMES}


def test_zeros_go_where_time_is_won() -> None:
    found = densities_for(Table(), errors(), 6.0, fixed=False)
    assert predicted(Table(), found) <= 6.0 + 1e-6
    assert found["slow.weight"] == found["unread"] == 1
    assert found["b.x"] == found["b.y"] < 1
    steep = densities_for(Table(), errors(20), 6.0, fixed=False)
    assert steep["a.weight"] > found["a.weight"]
    assert steep["b.x"] < found["b.x"]


def test_all_stays_where_it_is_fast_enough() -> None:
    assert set(densities_for(Table(), errors(), 11.0, fixed=False).values()) == {1.0}
    with pytest.raises(InfeasibleBudget):
        densities_for(Table(), errors(), 3.0, fixed=False)


def test_fixed_patterns_are_there_or_not() -> None:
    table = Table(densities=(0.5, 1.0))
    found = densities_for(table, errors(20), 9.5, fixed=True)
    assert found == {"a.weight": 1.0, "b.x": 0.5, "b.y": 0.5, "slow.weight": 1.0, "unread": 1.0}


def test_levels_of_patterns() -> None:
    assert levels(NM(2, 4).pattern) == (0.5,)
    assert levels(Weight().pattern) == levels(Block(4, 1).pattern) == DENSITIES


def test_energy_without_data() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 10)
    site = WeightSite("w", (20, 10))
    found = removed_energy([site], Pattern(), {"w": weight})["w"]
    squares = weight.square().flatten().sort().values
    for level, energy in zip(LEVELS, found, strict=True):
        gone = 200 - max(1, int(200 * level + 1e-9))
        assert energy == pytest.approx(float(squares[:gone].sum() / squares.sum()), rel=1e-4)
