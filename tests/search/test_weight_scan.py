"""Densities by what removal does to the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.batches import Call
from secateur.core.errors import RecipeError
from secateur.recover.distance import distance, outputs
from secateur.search.weight_scan import LEVELS, balanced, scan
from secateur.units import Pattern, weight_sites


class Sum(nn.Module):
    """Two branches, of which one hardly counts."""

    def __init__(self) -> None:
        super().__init__()
        self.strong, self.weak, self.head = nn.Linear(8, 20), nn.Linear(8, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.strong(x)) + 1e-3 * torch.tanh(self.weak(x)))


def net() -> Sum:
    return Sum().eval()


def test_errors_are_those_of_one_weight_alone_and_the_model_stays() -> None:
    model, calls = net(), [Call((torch.randn(40, 8),), {})]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    places = weight_sites(model)
    scores = {s.name: model.get_parameter(s.name).detach().abs() for s in places}
    found = scan(model, places, Pattern(), scores, calls)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    dense = outputs(model, calls)
    keep = Pattern().choose(scores["head.weight"], LEVELS[2])
    with torch.no_grad():
        model.head.weight.mul_(keep)
    assert found["head.weight"][2] == pytest.approx(distance(dense, outputs(model, calls)))
    assert max(found["weak.weight"]) < 0.01 * max(found["strong.weight"])


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9, 0.995])
def test_the_sum_of_errors_is_no_larger_than_that_of_even_densities(sparsity: float) -> None:
    generator = np.random.default_rng(0)
    sizes = {f"w{k}": int(10 ** generator.uniform(2, 5)) for k in range(8)}
    levels = np.array(LEVELS)
    power = {name: generator.uniform(0.5, 3) for name in sizes}
    scale = {name: 10 ** generator.uniform(-2, 0) for name in sizes}

    def error(name: str, density: Any) -> Any:
        return scale[name] * (1 - density) ** power[name]

    found = balanced({name: error(name, levels) for name in sizes}, sizes, sparsity)
    total = sum(sizes.values())
    kept = sum(found[name] * sizes[name] for name in sizes)
    assert kept == pytest.approx((1 - sparsity) * total, rel=1e-6)
    assert all(0 < density <= 1 for density in found.values())
    ours, even = (
        sum(error(n, d[n]) for n in sizes) for d in (found, dict.fromkeys(sizes, 1 - sparsity))
    )
    assert ours <= even * 1.02


def test_what_does_nothing_goes_first() -> None:
    model, x = net(), torch.randn(100, 8)
    how: dict[str, Any] = {"data": [x], "unit": sc.Weight(), "recover": [], "latency": False}
    result = sc.prune(model, budget=sc.Sparsity(0.5), allocate="sensitivity", **how)
    kept = {name: float(mask.float().mean()) for name, mask in result.masks.items()}
    assert kept["weak.weight"] < 0.1 < 0.6 < min(kept["strong.weight"], kept["head.weight"])
    assert sum(int(m.sum()) for m in result.masks.values()) <= int(0.5 * 380)


def test_what_it_needs() -> None:
    with pytest.raises(RecipeError, match="needs data"):
        sc.prune(net(), torch.ones(1, 8), unit=sc.Weight(), allocate="sensitivity", latency=False)
    with pytest.raises(RecipeError, match="the same part of every weight"):
        sc.prune(
            net(), data=[torch.randn(9, 8)], unit=sc.NM(), allocate="sensitivity", latency=False
        )
