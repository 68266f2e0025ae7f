"""What every solver promises."""

from __future__ import annotations

import pytest
import torch
from solver_cases import layer, loss

from secateur.recover.weights import solvers
from secateur.units import Pattern

PATTERNS = [Pattern(), Pattern(group="row"), Pattern(group=4, keep=2), Pattern(group=5)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", list(solvers))
def test_removes_what_it_should_and_updates_what_stays(name: str, pattern: Pattern) -> None:
    weight, h = layer(8, 20, rows=100)
    before = weight.clone(), h.clone()
    found = solvers.get(name)(weight, h, pattern, 0.5)
    assert torch.equal(weight, before[0]) and torch.equal(h, before[1])
    keep = pattern.choose(weight.abs(), 0.5)
    assert int((found != 0).sum()) == int(keep.sum())
    assert loss(found, weight, h) < loss(weight * (found != 0), weight, h)
    assert torch.equal(found, solvers.get(name)(weight, h, pattern, 0.5))


@pytest.mark.parametrize("name", list(solvers))
def test_everything_may_stay(name: str) -> None:
    weight, h = layer(4, 9)
    assert torch.allclose(solvers.get(name)(weight, h, Pattern(), 1.0), weight)
