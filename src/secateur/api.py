"""The verbs: thin compositions of the rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.allocate.decide import decide, frozen_reasons
from secateur.apply.cut import check_fingerprint
from secateur.apply.cut import replay as _replay
from secateur.apply.mask import mask
from secateur.apply.surgery import CutFailed, culprits, cut_verified
from secateur.core.batches import Call, as_call
from secateur.core.budget import Budget, Sparsity
from secateur.core.errors import InputError, RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.plan import Plan, Reason
from secateur.core.result import Inspection, Measured, Result, Verification
from secateur.core.scope import Scope
from secateur.core.tensors import light_copy, own_memory
from secateur.graph.analyze import analyze
from secateur.graph.graph import Graph
from secateur.graph.rewrite import rewrite as _rewrite
from secateur.measure.clock import compare as compare_latency
from secateur.measure.cost import Amounts, Cost
from secateur.measure.quality import evaluate as _evaluate
from secateur.measure.stats import Gather
from secateur.score.criterion import Score
from secateur.units import Channel, Head, Layer, Unit

_ATTEMPTS = 4
DEFAULT_UNIT: tuple[Unit, ...] = (Channel(), Head())
__all__ = ["cut", "inspect", "mask", "plan", "prune", "prune_"]


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
    whole = _measured(cost.total({}), timed)
    return Inspection.of(type(model).__name__, whole, _removable(model, graph, cost), graph)


@torch.inference_mode(False)
def plan(
    model: nn.Module,
    example: Any = None,
    *,
    unit: Unit | Sequence[Unit] = DEFAULT_UNIT,
    criterion: str | Score = "magnitude",
    budget: Budget | None = None,
    allocate: str = "global",
    scope: Any = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> Plan:
    """Decide what to remove, without touching the model; the arguments are those of `prune`."""
    call = _call(model, example, data)
    graph = analyze(model, call)
    made, _ = _decide(
        model, graph, call, unit, criterion, budget, allocate, scope, data, loss, seed
    )
    return replace(made, example=call)


@torch.inference_mode(False)
def prune(
    model: nn.Module, example: Any = None, *, rewrite: bool = False, **arguments: Any
) -> Result:
    """Return a smaller copy of a model, verified and measured; the model itself stays untouched.

    Takes the arguments of `prune_`, but for `optimizer`. Memory: the model, plus the smaller copy.

    Args:
        model: Any `nn.Module`.
        example: A tensor, a tuple of arguments, a dict of keyword arguments, or a loader's batch.
        rewrite: Return a graph module instead of the model's own class, so that sizes written as
            literals in its code can change too (see `sc.rewrite`).
        **arguments: See `prune_`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = sc.prune(net, torch.randn(4, 3), budget=sc.Params("50%"), latency=False)
        >>> result.model[0].out_features < 8 and result.verification.ok
        True
    """
    if "optimizer" in arguments:
        raise RecipeError(
            "prune returns a copy, which no optimizer holds", hint="use sc.prune_ to cut in place"
        )
    call = _call(model, example, arguments.get("data"))
    copy = light_copy(model)
    copy = _rewrite(copy, call) if rewrite else copy
    result = prune_(copy, call, _original=model, **arguments)
    own_memory(copy, model)
    return result


@torch.inference_mode(False)
def prune_(
    model: nn.Module,
    example: Any = None,
    *,
    unit: Unit | Sequence[Unit] = DEFAULT_UNIT,
    criterion: str | Score = "magnitude",
    budget: Budget | None = None,
    allocate: str = "global",
    scope: Any = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    latency: bool = True,
    rollback: bool = True,
    _original: nn.Module | None = None,
) -> Result:
    """Prune a model in place: analyse, score, allocate, cut, verify, measure.

    Args:
        model: Any `nn.Module`.
        example: A tensor, a tuple of arguments, a dict of keyword arguments, or a loader's batch;
            by default the first batch of `data`.
        unit: What is removed: `Channel()`, `Head()`, `Layer()`, or a list of these.
        criterion: How it is scored: a name, or a function `(site, facts) -> Tensor[n]`.
        budget: What the result may cost, such as `MACs("50%")`; by default half of every site.
        allocate: "global", "uniform" or "isomorphic".
        scope: What may be touched: see `sc.only` and `sc.skip`.
        data: Batches, for criteria that need gradients.
        loss: `(model, batch) -> scalar` for those; cross-entropy or mean squared error by default.
        evaluate: `model -> number`, measured before and after.
        optimizer: Its state is cut with the parameters.
        seed: For criteria that draw.
        latency: Measure milliseconds on the example, before and after.
        rollback: Keep the removed weights until the cut is proven; without it memory is saved, and
            a failure leaves the model unusable.

    Raises:
        InputError, RecipeError, InfeasibleBudget, UnsupportedModel: Before anything is touched.
        VerificationError: No part could be cut correctly; the model is as it was.
    """
    start = perf_counter()
    call = _call(model, example, data)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError(
                f"{name} is on the meta device", hint="load the weights before pruning"
            )
    score_before = None if evaluate is None else _evaluate(evaluate, model)
    frozen: dict[str, Reason] = {}
    failure: CutFailed | None = None
    for _ in range(_ATTEMPTS):
        graph = analyze(model, call, also_frozen=frozen)
        traced = perf_counter()
        chosen, notes = _decide(
            model, graph, call, unit, criterion, budget, allocate, scope, data, loss, seed
        )
        planned = perf_counter()
        clock = _Clock(model, _original, call) if latency else None
        try:
            _, verification = cut_verified(
                model, call, graph, chosen, optimizer=optimizer, keep=rollback
            )
            break
        except CutFailed as error:
            failure = error
            found = culprits(model, call, graph, chosen) if rollback else {}
            if not found or found.keys() <= frozen.keys():
                raise
            frozen |= found
    else:
        raise failure or InputError("the model could not be cut")
    done = perf_counter()
    before, after = (Amounts(**{k: v[i] for k, v in chosen.predicted.items()}) for i in (0, 1))
    times = clock.read() if clock is not None else (None, None)
    score_after = None if evaluate is None else _evaluate(evaluate, model)
    remember(model, (*plans_of(_original or model), chosen))
    return Result(
        model=model,
        plan=chosen,
        plans=plans_of(model),
        before=_measured(before, times[0], score_before),
        after=_measured(after, times[1], score_after),
        verification=verification,
        frozen=frozen_reasons(graph),
        seconds={"trace": traced - start, "plan": planned - traced, "cut": done - planned},
        notes=(*graph.notes, *notes),
    )


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


def _call(model: nn.Module, example: Any, data: Iterable[Any] | None) -> Call:
    if example is not None:
        return as_call(model, example)
    if data is None:
        raise InputError(
            "there is neither an example nor data", hint="give example=one batch of inputs"
        )
    for batch in data:
        return as_call(model, list(batch) if isinstance(batch, tuple) else batch)
    raise InputError("the data loader is empty", hint="give at least one batch")


def _decide(
    model: nn.Module, graph: Graph, call: Call, unit: Any, criterion: Any, budget: Budget | None,
    allocate: str, scope: Any, data: Iterable[Any] | None, loss: Any, seed: int,
) -> tuple[Plan, tuple[str, ...]]:  # fmt: skip
    gather = Gather(model, call, data, loss, seed)
    return decide(
        model, graph, unit=unit, criterion=criterion, budget=budget or Sparsity(0.5), how=allocate,
        scope=Scope.of(scope), gather=gather, seed=seed,
    )  # fmt: skip


def _measured(amounts: Amounts, latency: Any = None, quality: float | None = None) -> Measured:
    return Measured(amounts.params, amounts.macs, amounts.bytes, latency, quality)


def _removable(model: nn.Module, graph: Graph, cost: Cost) -> list[Any]:
    return [
        site
        for unit in (Channel(), Head(), Layer())
        for site in unit.sites(graph, Scope.of(None), model)
    ]


class _Clock:
    """Latency before and after: interleaved where the original is at hand, else in turn."""

    def __init__(self, model: nn.Module, original: nn.Module | None, call: Call) -> None:
        self.model, self.original, self.call = model, original, call
        self.first = (
            None
            if original is not None
            else compare_latency({"model": partial(call.run, model)})["model"]
        )

    def read(self) -> tuple[Any, Any]:
        """(before, after)."""
        after = partial(self.call.run, self.model)
        if self.original is None:
            return self.first, compare_latency({"model": after})["model"]
        both = compare_latency({"before": partial(self.call.run, self.original), "after": after})
        return both["before"], both["after"]
