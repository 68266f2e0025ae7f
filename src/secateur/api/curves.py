"""The trade-off as a curve, and what each place of a model can lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from secateur.api.arguments import Arguments
from secateur.core.errors import RecipeError
from secateur.core.frontier import Frontier, Point
from secateur.core.scan import Sensed, Sensitivity
from secateur.measure.quality import Evaluate
from secateur.search.frontier import frontier as _frontier
from secateur.search.sensitivity import LEVELS


@torch.inference_mode(False)
def frontier(
    model: nn.Module,
    example: Any = None,
    *,
    evaluate: Evaluate,
    cost: str = "macs",
    points: int = 8,
    batch: int | None = None,
    threads: int | None = None,
    lower_is_better: bool | None = None,
    on_point: Callable[[Point], None] | None = None,
    **arguments: Any,
) -> Frontier:
    """Prune to `points` shares of a cost, evaluate each, and give the curve.

    Args:
        model: Left as it was.
        example: See `prune_`; by default the first sample of `data`.
        evaluate: `model -> number`, or one number for each sample.
        cost: "macs", "params", "bytes" or "latency" (shares of MACs, each network timed here).
        points: How many networks.
        batch: Samples of the call that is timed; by default as many as the example has.
        threads: CPU threads inside an operation, when timing.
        lower_is_better: By default what `evaluate` says of itself, else no.
        on_point: Called with every point as it is measured.
        **arguments: unit, criterion, allocate, scope, data, loss, recover, samples, seed: as in
            `prune_`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> x = torch.randn(32, 3)
        >>> wanted = net(x).detach()
        >>> front = sc.frontier(net, data=[x], evaluate=lambda m: -(m(x) - wanted).norm(), points=2)
        >>> len(front.points)
        2

    Raises:
        RecipeError, InputError, InfeasibleBudget: As `prune_` raises.
    """
    if "budget" in arguments:
        raise RecipeError("a frontier has no budget", hint="points= says how many networks")
    given = _given(arguments)
    call = given.call(model, example)
    shop = given.workshop(model, call)
    return _frontier(
        shop.build, model, evaluate, cost=cost, points=points, example=call, batch=batch,
        threads=threads, lower_is_better=lower_is_better, seed=given.seed, on_point=on_point,
    )  # fmt: skip


@torch.inference_mode(False)
def sensitivity(
    model: nn.Module,
    example: Any = None,
    *,
    evaluate: Evaluate | None = None,
    levels: Sequence[float] = LEVELS,
    lower_is_better: bool | None = None,
    on_sensed: Callable[[Sensed], None] | None = None,
    **arguments: Any,
) -> Sensitivity:
    """Cut every place alone to a few levels, and measure what the network loses by it.

    Args:
        model: Left as it was.
        example: See `prune_`; by default the first sample of `data`.
        evaluate: `model -> number`, or one for each sample; without it the outputs on the data are
            compared with the original's.
        levels: Shares of the indices that stay.
        lower_is_better: Of `evaluate`; by default what it says of itself, else no.
        on_sensed: Called with every record.
        **arguments: unit, criterion, scope, data, loss, recover, samples, seed: as in `prune_`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> scan = sc.sensitivity(net, data=[torch.randn(32, 3)], levels=[0.5])
        >>> [dict(item.kept) for item in scan.sensed]
        [{'0': 4}]

    Raises:
        RecipeError, InputError: As `prune_` raises.
    """
    given = _given(arguments)
    call = given.call(model, example)
    shop = given.workshop(model, call)
    return shop.scan(
        evaluate=evaluate, levels=levels, lower_is_better=lower_is_better, on_sensed=on_sensed
    )


def _given(arguments: dict[str, Any]) -> Arguments:
    if arguments.get("schedule") is not None:
        raise RecipeError(
            "a curve has no schedule: each of its networks is cut once",
            hint="use sc.prune for cycles",
        )
    return Arguments.of(**arguments)
