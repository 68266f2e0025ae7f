"""Makes a dial: nested trials, each packed into as few bits as its repair allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from secateur.adapt.dial import Dial
from secateur.adapt.folded import foldable
from secateur.adapt.level import Level, packing_errors
from secateur.adapt.nest import nest
from secateur.core.errors import RecipeError
from secateur.core.history import plans_of
from secateur.recover.distance import distance, outputs
from secateur.search.trial import Trial
from secateur.search.workshop import Workshop

COSTS = {"macs": "macs", "params": "params", "latency": "ns"}
_BOUNDS = tuple(0.5 * 2 ** (-k / 2) for k in range(20))  # of relative errors of weights
_NEAR = 0.02  # distances below this are all alike good


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """The levels below 1, largest first; 1 is always there.

    Raises:
        RecipeError: A level is not a share, or there is none below 1.
    """
    shares = sorted({float(level) for level in levels}, reverse=True)
    for share in shares:
        if not 0 < share <= 1:
            raise RecipeError(
                f"{share!r} is not a level", hint="levels are shares of the cost, such as 0.5"
            )
    below = tuple(share for share in shares if share < 1)
    if not below:
        raise RecipeError("there is no level below 1", hint="for example levels=[1.0, 0.5]")
    return below


def build(
    shop: Workshop,
    levels: Sequence[float],
    cost: str = "macs",
    *,
    tolerance: float = 0.05,
    cache: int = 4,
) -> Dial:
    """A dial of a workshop's model, which stays untouched.

    tolerance: how much further from the dense outputs packing may bring a repaired level, as a
    part of its distance (of 0.02, where it is closer than that); more bits are taken until that
    holds. See `sc.dial` for the others.

    Memory: the dense copy, and all repaired levels until they are packed.
    """
    if cost not in COSTS:
        raise RecipeError(f"cost={cost!r}", hint=f"one of {', '.join(COSTS)}")
    if shop.how in ("search", "sensitivity"):
        raise RecipeError(
            f"allocate={shop.how!r} gives no nested levels", hint="take 'knapsack' or 'global'"
        )
    dense, trials, notes = nest(shop, check_levels(levels), COSTS[cost])
    held = () if shop.calibration is None else shop.calibration.held
    wanted = outputs(dense, held)
    shares = zip(check_levels(levels), trials, strict=True)
    found = [_packed(share, trial, dense, held, wanted, tolerance) for share, trial in shares]
    return Dial(
        dense, found, trials[0].before, cost, cache=cache, notes=notes,
        history=plans_of(shop.model), folds=foldable(dense, shop.call),
    )  # fmt: skip


def _packed(
    share: float,
    trial: Trial,
    dense: nn.Module,
    held: Sequence[Any],
    wanted: list[list[Tensor]],
    tolerance: float,
) -> Level:
    """The level in the fewest bits that keep it as close to the dense outputs as it was.

    Every weight gets the fewest bits with which its relative error stays below a bound, the same
    for all; the bound is the largest, of a few, that held-out data allows.
    """
    plan = replace(trial.plan, example=None)  # levels are kept and pickled without data
    notes = (*trial.notes, *trial.repairs)
    exact = Level(share, trial.model, dense, plan, trial.amounts, {}, notes)
    if not held:
        return exact
    repaired = distance(wanted, outputs(trial.model, held))
    exact.distance = (repaired, repaired)
    errors = packing_errors(trial.model, dense, plan)
    best, low, high = exact, 0, len(_BOUNDS)  # from `high` on it is known to be exact enough
    while errors and low < high:
        middle = (low + high) // 2
        bits = {name: _least(found, _BOUNDS[middle]) for name, found in errors.items()}
        level = Level(share, trial.model, dense, plan, trial.amounts, bits, notes)
        stored = distance(wanted, outputs(level.network(dense), held))
        level.distance = (repaired, stored)
        if stored - repaired <= tolerance * max(repaired, _NEAR):
            best, high = level, middle
        else:
            low = middle + 1
    return best


def _least(errors: Mapping[int, float], bound: float) -> int:
    """The fewest bits with an error below the bound; 0, which is exact, where none are enough."""
    return next((bits for bits, error in errors.items() if error <= bound), 0)


__all__ = ["COSTS", "build", "check_levels"]
