"""The search on made-up functions of which the smallest answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from secateur.core.layout import Mask
from secateur.interpret.smallest import smallest

NEEDED = {"a": {2, 5, 11}, "b": {0}}
SIZES = {"a": 30, "b": 10}


def fine(keeps: Mapping[str, Mask]) -> bool:
    return all(keeps[name][sorted(wanted)].all() for name, wanted in NEEDED.items())


def estimate(error: float) -> Any:
    def found(keeps: Mapping[str, Mask]) -> Mapping[str, Tensor]:
        noise = torch.Generator().manual_seed(0)
        scores = {n: error * torch.rand(len(m), generator=noise) for n, m in keeps.items()}
        for name, wanted in NEEDED.items():
            scores[name][sorted(wanted)] += 1.0
        return scores

    return found


@pytest.mark.parametrize("error", [0.1, 3.0, 1e6])
def test_what_is_needed_stays_and_nothing_else(error: float) -> None:
    found = smallest(SIZES, estimate(error), fine, 1000)
    assert found.complete
    assert {n: set(np.flatnonzero(m)) for n, m in found.keeps.items()} == NEEDED
    assert found.passes < 150


def test_good_estimates_save_runs() -> None:
    assert smallest(SIZES, estimate(0.1), fine, 1000).passes <= 20


def test_it_stops_when_runs_are_used_up() -> None:
    found = smallest(SIZES, estimate(1e6), fine, 12)
    assert not found.complete
    assert found.passes <= 12
    assert fine(found.keeps)


def test_nothing_is_needed() -> None:
    found = smallest(SIZES, estimate(0.1), lambda keeps: True, 1000)
    assert not any(mask.any() for mask in found.keeps.values())
