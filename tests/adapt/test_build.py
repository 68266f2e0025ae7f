"""How a dial is made: costs, levels and bits."""

import pytest
import torch
from adapting import perceptron

import secateur as sc
from secateur.adapt.build import check_levels
from secateur.core.errors import RecipeError


def test_levels_are_sorted_and_the_whole_is_implied() -> None:
    assert check_levels([0.25, 1.0, 0.5, 0.5]) == (0.5, 0.25)
    with pytest.raises(RecipeError):
        check_levels([float("nan")])


def test_no_tolerance_leaves_weights_exact() -> None:
    net, x = perceptron()
    dial = sc.dial(net, data=[x], levels=[0.5], tolerance=-1e9)
    (level,) = dial.stored
    assert level.bits == 0
    assert level.distance[0] == pytest.approx(level.distance[1], abs=1e-7)


def test_more_tolerance_takes_fewer_bits() -> None:
    net, x = perceptron()
    sizes = [
        sc.dial(net, data=[x], levels=[0.5], tolerance=tolerance).memory.stored
        for tolerance in (1e9, 1e-4)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("cost", ["params", "latency"])
def test_other_costs(cost: str) -> None:
    net, x = perceptron()
    net = torch.nn.Sequential(torch.nn.Linear(6, 512), torch.nn.ReLU(), torch.nn.Linear(512, 4))
    dial = sc.dial(net, x, levels=[0.7], cost=cost)
    assert sum(p.numel() for p in dial.export(0.7).parameters()) < sum(
        p.numel() for p in net.parameters()
    )
