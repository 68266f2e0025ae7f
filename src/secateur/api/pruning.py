"""The main verbs: prune a copy, or in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.allocate.decide import frozen_reasons
from secateur.api.recipe import UNIT, Recipe
from secateur.apply.surgery import cut_verified
from secateur.core.attempt import Attempt
from secateur.core.batches import Call
from secateur.core.budget import Budget, measured
from secateur.core.errors import InputError, RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.measured import Latency, Measured
from secateur.core.result import Result
from secateur.core.tensors import light_copy, named_tensors
from secateur.graph.rewrite import rewrite as _rewrite
from secateur.measure.clock import compare as compare_latency
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.recover import Recover
from secateur.score.criterion import Score
from secateur.search.loop import Found, search
from secateur.search.trial import Trial
from secateur.search.workshop import Workshop
from secateur.units import Unit

OnTrial = Callable[[Attempt], None]


@torch.inference_mode(False)
def prune(
    model: nn.Module,
    example: Any = None,
    *,
    rewrite: bool = False,
    evaluate: Evaluate | None = None,
    latency: bool = True,
    resume: Iterable[Attempt] = (),
    on_trial: OnTrial | None = None,
    **arguments: Any,
) -> Result:
    """Return a smaller copy of a model, verified and measured; the model itself stays untouched.

    Takes the arguments of `prune_`, but for `optimizer` and `rollback`. Memory: the model, the
    smaller copy, and where there is data what its repair takes (see `Reconstruct`).

    Args:
        model: Any `nn.Module`.
        example: A tensor, a tuple of arguments, a dict of keyword arguments, or a loader's batch.
        rewrite: Return a graph module instead of the model's own class, so that sizes written as
            literals in its code can change too (see `sc.rewrite`).
        evaluate: See `prune_`, as the rest.
        latency: Measure milliseconds on the example, before and after.
        resume: Records of an interrupted search with the same arguments.
        on_trial: Called with the record of every trial.
        **arguments: See `prune_`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> result = sc.prune(net, torch.randn(4, 3), budget=sc.Params("50%"), latency=False)
        >>> result.model[0].out_features < 8 and result.verification.ok
        True
    """
    for name in ("optimizer", "rollback"):
        if name in arguments:
            raise RecipeError(
                f"prune returns a copy, for which {name}= means nothing",
                hint="use sc.prune_ to cut in place",
            )
    recipe = Recipe.of(**arguments)
    call = recipe.call(model, example)
    _check(model)
    base = _rewrite(light_copy(model), call) if rewrite else model
    start = perf_counter()
    shop = recipe.workshop(base, call)
    planned = perf_counter()
    judge = None if evaluate is None or measured(recipe.budget) else _judge(evaluate, base)
    found = _search(shop, recipe, call, evaluate, resume, on_trial)
    built = perf_counter()
    after = found.trial.model
    times = _timed({"before": base, "after": after}, call) if latency else {}
    remember(after, (*plans_of(model), found.trial.plan))
    result = _result(shop, after, found, judge, (times.get("before"), times.get("after")))
    return replace(result, seconds={"analyse": planned - start, "make": built - planned})


@torch.inference_mode(False)
def prune_(
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
    evaluate: Evaluate | None = None,
    recover: Sequence[Recover] | None = None,
    samples: int = 512,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    latency: bool = True,
    rollback: bool = True,
    resume: Iterable[Attempt] = (),
    on_trial: OnTrial | None = None,
) -> Result:
    """Prune a model in place: analyse, score, allocate, cut, verify, repair, measure.

    Args:
        model: Any `nn.Module`.
        example: A tensor, a tuple of arguments, a dict of keyword arguments, or a loader's batch;
            by default the first batch of `data`.
        unit: What is removed: `Channel()`, `Head()`, `Layer()`, or a list of these.
        criterion: How it is scored: a name, or a function `(site, facts) -> Tensor[n]`. By default
            "osscar" where there is data and "magnitude" where there is none.
        budget: What the result may cost, such as `MACs("50%")`, what it may lose, such as
            `Drop(points=1)`, or how long it may take, such as `Latency("60%")`, joined by `&`; by
            default half of all units go.
        allocate: How much goes where: "global", "uniform", "isomorphic", "erk", "lamp", "owl",
            "knapsack"; by default "knapsack" with data and "global" otherwise.
        scope: What may be touched: see `sc.only` and `sc.skip`.
        data: Batches to learn from, labelled or not: a data loader, a list, one tensor. They serve
            criteria and repairs, and are best drawn from the training data.
        loss: `(model, batch) -> scalar` for criteria that need gradients; cross-entropy or mean
            squared error by default.
        evaluate: `model -> number`, or one number for each sample; measured before and after.
        recover: Repairs in order; by default `[Reconstruct(), Recalibrate()]` where there is data.
            None of them trains. An empty list repairs nothing.
        samples: How many samples of the data are used at most.
        optimizer: Its state is cut with the parameters.
        seed: For what is drawn.
        latency: Measure milliseconds on the example, before and after.
        rollback: Keep the removed weights until the cut is proven; without it memory is saved, and
            a failure leaves the model unusable.
        resume: Records of an interrupted search with the same arguments.
        on_trial: Called with the record of every trial.

    Raises:
        InputError, RecipeError, InfeasibleBudget, UnsupportedModel: Before anything is touched.
        VerificationError: No part could be cut correctly; the model is as it was.
    """
    recipe = Recipe.of(
        unit=unit, criterion=criterion, budget=budget, allocate=allocate, scope=scope, data=data,
        loss=loss, recover=recover, samples=samples, seed=seed,
    )  # fmt: skip
    call = recipe.call(model, example)
    _check(model)
    start = perf_counter()
    shop = recipe.workshop(model, call)
    planned = perf_counter()
    judge = None if evaluate is None or measured(recipe.budget) else _judge(evaluate, model)
    first = _timed({"before": model}, call)["before"] if latency else None
    earlier = plans_of(model)
    if recipe.recover or measured(recipe.budget):
        found = _search(shop, recipe, call, evaluate, resume, on_trial)
        _install(shop, found.trial, optimizer, rollback)
    else:
        trial = shop.cut_in_place(recipe.budget, optimizer=optimizer, rollback=rollback)
        found = Found(trial, (), None, None, None, None, ())
    built = perf_counter()
    second = _timed({"after": model}, call)["after"] if latency else None
    remember(model, (*earlier, found.trial.plan))
    result = _result(shop, model, found, judge, (first, second))
    return replace(result, seconds={"analyse": planned - start, "make": built - planned})


def _check(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError(
                f"{name} is on the meta device", hint="load the weights before pruning"
            )


def _judge(evaluate: Evaluate, model: nn.Module) -> Judge:
    return Judge(evaluate, model, split=False)


def _search(
    shop: Workshop,
    recipe: Recipe,
    call: Call,
    evaluate: Evaluate | None,
    resume: Iterable[Attempt],
    on_trial: OnTrial | None,
) -> Found:
    return search(
        shop.build, shop.model, recipe.budget, evaluate=evaluate, example=call, seed=recipe.seed,
        cost="macs" if shop.decider.cost.table is None else "ns",
        resume=resume, on_trial=on_trial,
    )  # fmt: skip


def _install(shop: Workshop, trial: Trial, optimizer: Optimizer | None, rollback: bool) -> None:
    """Cut the model as the trial was cut, and give it the trial's repaired tensors."""
    cut_verified(shop.model, shop.call, shop.graph, trial.plan, optimizer=optimizer, keep=rollback)
    repaired = dict(named_tensors(trial.model))
    with torch.no_grad():
        for name, tensor in named_tensors(shop.model):
            if name in repaired:
                tensor.data = repaired[name].data


def _timed(models: dict[str, nn.Module], call: Call) -> dict[str, Latency]:
    return compare_latency({name: partial(call.run, model) for name, model in models.items()})


def _result(
    shop: Workshop,
    model: nn.Module,
    found: Found,
    judge: Judge | None,
    times: tuple[Latency | None, Latency | None],
) -> Result:
    trial, quality = found.trial, found.quality
    if judge is not None:
        quality = judge.report(judge.read(model), model)
    values = (None, None) if quality is None else (quality.before, quality.after)
    peaks = (found.peak_before, found.peak)
    old, new = (
        Measured(a.params, a.macs, a.bytes, times[k], values[k], peaks[k])
        for k, a in enumerate((trial.before, trial.amounts))
    )
    assert trial.verification is not None
    return Result(
        model=model,
        plan=trial.plan,
        plans=plans_of(model),
        before=old,
        after=new,
        verification=trial.verification,
        frozen=frozen_reasons(shop.graph),
        notes=(*shop.graph.notes, *trial.notes),
        repairs=trial.repairs,
        quality=quality,
        search=found.lines,
        attempts=found.attempts,
    )
