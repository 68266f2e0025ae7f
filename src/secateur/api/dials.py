"""The verb that makes a dial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from secateur.adapt.build import COSTS, build, check_levels
from secateur.adapt.dial import Dial
from secateur.api.arguments import Arguments
from secateur.core.budget import Latency
from secateur.core.errors import RecipeError


@torch.inference_mode(False)
def dial(
    model: nn.Module,
    example: Any = None,
    *,
    data: Iterable[Any] | None = None,
    levels: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
    cost: str = "macs",
    tolerance: float = 0.05,
    cache: int = 4,
    **arguments: Any,
) -> Dial:
    """Return a network with a knob: one set of weights, and nested networks of several sizes.

    Each level is cut, verified and, with data, repaired without training; the model itself stays
    untouched. Print the dial to see what each level costs and how far it is from the dense outputs.

    Args:
        model: Any `nn.Module`.
        example: See `prune_`; by default the first sample of `data`.
        data: Batches to repair with, labelled or not.
        levels: Shares of the cost.
        cost: "macs", "params" or "latency" (predicted from layers that are timed here).
        tolerance: How much further from the dense outputs the storage in few bits may bring a
            level, as a part of its distance.
        cache: How many levels stay unpacked.
        **arguments: unit, criterion, allocate, scope, loss, recover, samples, seed: as in `prune_`.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> x = torch.randn(64, 4)
        >>> dial = sc.dial(net, data=[x], levels=[1.0, 0.5])
        >>> dial.set(0.5)
        >>> dial.export(0.5)[0].out_features
        32
        >>> with dial.at(1.0):
        ...     torch.allclose(dial(x), net(x), atol=1e-5)
        True

    Raises:
        RecipeError, InputError, InfeasibleBudget: As `prune_` raises.
    """
    for name, instead in (("budget", "levels= says how small"), ("schedule", "leave it out")):
        if name in arguments:
            raise RecipeError(f"a dial has no {name}", hint=instead)
    check_levels(levels)
    if cost not in COSTS:
        raise RecipeError(f"cost={cost!r}", hint=f"one of {', '.join(COSTS)}")
    budget = Latency("50%") if cost == "latency" else None  # it has the layers timed
    given = Arguments.of(data=data, budget=budget, **arguments)
    shop = given.workshop(model, given.call(model, example))
    return build(shop, levels, cost, tolerance=tolerance, cache=cache)
