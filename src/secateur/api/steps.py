"""The single steps: look, plan, cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.api.arguments import UNIT, Arguments
from secateur.apply.cut import check_fingerprint
from secateur.apply.cut import replay as _replay
from secateur.apply.surgery import cut_verified
from secateur.core.batches import as_call
from secateur.core.budget import Budget, measured
from secateur.core.errors import RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.measured import Measured
from secateur.core.plan import Plan
from secateur.core.result import Inspection, Verification
from secateur.core.scope import Scope
from secateur.graph.analyze import analyze
from secateur.measure.clock import compare as compare_latency
from secateur.measure.cost import Cost
from secateur.score.criterion import Score
from secateur.units import Channel, Head, Layer, Unit


@torch.inference_mode(False)
def inspect(model: nn.Module, example: Any, *, latency: bool = False) -> Inspection:
    """Say what can be removed from a model, how much it weighs, and what is frozen and why.

    Args:
        model: Any `nn.Module`; it is left untouched.
        example: A tensor, a tuple of arguments, a dict of keyword arguments, or a loader's batch.
        latency: Also time the model on the example.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> print(sc.inspect(net, torch.zeros(1, 3)))  # doctest: +ELLIPSIS
        Sequential...
    """
    call = as_call(model, example)
    graph = analyze(model, call)
    cost = Cost(graph, model)
    timed = compare_latency({"model": partial(call.run, model)})["model"] if latency else None
    total = cost.total({})
    whole = Measured(total.params, total.macs, total.bytes, timed)
    places = [
        site
        for unit in (Channel(), Head(), Layer())
        for site in unit.sites(graph, Scope.of(None), model)
    ]
    return Inspection.of(type(model).__name__, whole, places, graph)


@torch.inference_mode(False)
def plan(
    model: nn.Module,
    example: Any = None,
    *,
    unit: Unit | Sequence[Unit] = UNIT,
    criterion: str | Score | None = None,
    budget: Budget | None = None,
    allocate: Any = None,
    scope: Any = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    samples: int = 512,
    seed: int = 0,
) -> Plan:
    """Decide what to remove, without touching the model; the arguments are those of `prune_`.

    Raises:
        RecipeError: The budget has to be measured on a network (`Drop`, `Latency`), or the like.
    """
    given = Arguments.of(
        unit=unit, criterion=criterion, budget=budget, allocate=allocate, scope=scope, data=data,
        loss=loss, recover=(), samples=samples, seed=seed,
    )  # fmt: skip
    if measured(given.budget):
        raise RecipeError(
            f"{given.budget!r} has to be measured on a network, which a plan alone is not",
            hint="use sc.prune, whose result has the plan",
        )
    call = given.call(model, example)
    shop = given.workshop(model, call)
    made, _ = shop.decider.plan(given.budget, shop.how)
    return replace(made, example=call)


@torch.inference_mode(False)
def cut(
    model: nn.Module, plan: Plan, example: Any = None, *, optimizer: Optimizer | None = None
) -> Verification:
    """Apply a plan in place, verified on the example that it was made on, or on another one.

    A plan read from JSON has no example: give one, or the result says "not verified".

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> plan = sc.plan(net, torch.randn(4, 3), budget=sc.Params("50%"))
        >>> sc.cut(net, plan).ok, net[0].out_features < 8
        (True, True)

    Raises:
        StalePlan: The plan was made for another model.
        VerificationError: The outputs differ; the model is as it was.
    """
    check_fingerprint(model, plan)
    earlier = plans_of(model)
    if example is None and plan.example is None:
        _replay(model, plan, optimizer=optimizer)
        verification = Verification(
            False, False, 0.0, 0.0, "none", "not verified: no example was given"
        )
    else:
        call = as_call(model, plan.example if example is None else example)
        graph = analyze(model, call)
        verification = cut_verified(model, call, graph, plan, optimizer=optimizer)[1]
    remember(model, (*earlier, plan))
    return verification
