"""The main verbs: prune a copy, or in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.allocate.decide import frozen_reasons
from secateur.api.arguments import UNIT, Arguments
from secateur.api.packing import check_become, packed
from secateur.api.single import prune_single
from secateur.api.weights import weight_unit
from secateur.apply.edit import Edit
from secateur.apply.surgery import cut_verified
from secateur.core.attempt import Attempt
from secateur.core.batches import Call
from secateur.core.budget import Budget, measured
from secateur.core.errors import InputError, RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.measured import Latency, Measured
from secateur.core.plan import Plan
from secateur.core.result import Result
from secateur.core.schedule import Steps
from secateur.core.tensors import compact, light_copy, named_tensors
from secateur.graph.analyze import analyze
from secateur.graph.rewrite import rewrite as _rewrite
from secateur.measure.clock import compare as compare_latency
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.recover import Recover
from secateur.score.criterion import Score
from secateur.score.weight import WeightScore
from secateur.search.cycles import cycles
from secateur.search.loop import Found, search
from secateur.search.workshop import Workshop
from secateur.units import Unit, WeightUnit

OnTrial = Callable[[Attempt], None]


@torch.inference_mode(False)
def prune(
    model: nn.Module,
    example: Any = None,
    *,
    rewrite: bool = False,
    become: Literal["cut", "masked", "packed"] | None = None,
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
        become: "packed" makes the result's model run on sparse kernels (see `sc.compile`), and
            measures it so; of single weights `Latency` is then a budget too, and zeros go where the
            kernels win time. By default channels are "cut" and single weights "masked".
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
    single = weight_unit(arguments.get("unit", UNIT))
    packing = check_become(become, single=single is not None)
    if single is not None:
        if rewrite:
            raise RecipeError("rewrite=True is for cuts: zeros change no size", hint="leave it out")
        return prune_single(
            model, example, single, in_place=False, evaluate=evaluate, latency=latency,
            resume=resume, on_trial=on_trial, become=packing,
            **{k: v for k, v in arguments.items() if k != "unit"},
        )  # fmt: skip
    if arguments.pop("stream", None) is not None:
        raise _no_stream()
    given = Arguments.of(**arguments)
    call = given.call(model, example)
    _check(model)
    base = _rewrite(light_copy(model), call) if rewrite else model
    start = perf_counter()
    shop = given.workshop(base, call)
    planned = perf_counter()
    judge = None if evaluate is None or measured(given.budget) else _judge(evaluate, base)
    found = _search(shop, given, call, evaluate, judge, resume, on_trial)
    built = perf_counter()
    after = found.trial.model
    times = _timed({"before": base, "after": after}, call) if latency and not packing else {}
    remember(after, (*plans_of(model), *_plans(found)))
    result = _result(shop, after, found, judge, (times.get("before"), times.get("after")))
    if packing:
        later = None if judge is None else evaluate
        result = packed(result, base, call, evaluate=later, latency=latency)
    return replace(result, seconds={"analyse": planned - start, "make": built - planned})


@torch.inference_mode(False)
def prune_(
    model: nn.Module,
    example: Any = None,
    *,
    unit: Unit | WeightUnit | Sequence[Unit] = UNIT,
    criterion: str | Score | WeightScore | None = None,
    budget: Budget | None = None,
    allocate: Any = None,
    scope: Any = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    evaluate: Evaluate | None = None,
    recover: Sequence[Recover] | Recover | None = None,
    become: Literal["cut", "masked"] | None = None,
    samples: int = 512,
    schedule: Steps | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    latency: bool = True,
    rollback: bool = True,
    stream: Literal["blocks"] | None = None,
    resume: Iterable[Attempt] | str | Path = (),
    on_trial: OnTrial | None = None,
) -> Result:
    """Prune a model in place: analyse, score, allocate, cut, verify, repair, measure.

    Args:
        model: Any `nn.Module`.
        example: A tensor, a tuple of arguments, a dict of keyword arguments, or a loader's batch;
            by default the first batch of `data`.
        unit: What is removed: `Channel()`, `Head()`, `Layer()`, or a list of these; or single
            weights, which become zero: `Weight()`, `NM(2, 4)`, `Block(4, 1)`.
        criterion: How it is scored: a name, or a function `(site, facts) -> Tensor[n]`. By default
            "osscar" where there is data and "magnitude" where there is none. Of single weights a
            function gives `[out, k]`; by default "magnitude". "sparsegpt", "alps" and "obc" also
            give the weights that stay new values.
        budget: What the result may cost, such as `MACs("50%")`, what it may lose, such as
            `Drop(points=1)`, or how long it may take, such as `Latency("60%")`, joined by `&`; by
            default half of all units go.
        allocate: How much goes where: "global", "uniform", "isomorphic", "erk", "lamp", "owl",
            "knapsack"; by default "knapsack" with data and "global" otherwise. Of single weights
            "uniform", "erk", "global", "lamp" (the default), "owl", "sensitivity", or a density for
            each by name.
        scope: What may be touched: see `sc.only` and `sc.skip`.
        data: Batches to learn from, labelled or not: a data loader, a list, one tensor. They serve
            criteria and repairs, and are best drawn from the training data.
        loss: `(model, batch) -> scalar` for criteria that need gradients; cross-entropy or mean
            squared error by default.
        evaluate: `model -> number`, or one number for each sample; measured before and after.
        recover: Repairs in order; by default `[Reconstruct(), Recalibrate()]` where there is data,
            which do not train. `Finetune`, `Distill`, `Rewind` and `LowRank` do, on all the data.
            An empty list repairs nothing.
        become: "cut" or "masked", as the unit is; `prune` also takes "packed".
        samples: How many samples of the data are used at most, but for training.
        schedule: `Steps(5)` prunes in five cycles of rising intensity, each scored and repaired
            anew; a demand on quality ends them, and the last good network is the result.
        optimizer: Its state is cut with the parameters.
        seed: For what is drawn.
        latency: Measure milliseconds on the example, before and after.
        rollback: Keep the removed weights until the cut is proven; without it memory is saved, and
            a failure leaves the model unusable.
        stream: "blocks" prunes the weights inside a decoder's blocks one block at a time, with one
            block's activations in memory.
        resume: Records of an interrupted search with the same arguments; with `stream`, a folder
            for finished blocks.
        on_trial: Called with the record of every trial.

    Raises:
        InputError, RecipeError, InfeasibleBudget, UnsupportedModel: Before anything is touched.
        VerificationError: No part could be cut correctly; the model is as it was.
    """
    single = weight_unit(unit)
    check_become(become, single=single is not None, in_place=True)
    if single is not None:
        if optimizer is not None:
            raise RecipeError(
                "optimizer= is for cuts; zeros change no shape",
                hint="to go on training with the zeros kept, use sc.attach",
            )
        return prune_single(
            model, example, single, in_place=True, criterion=criterion, budget=budget,
            allocate=allocate, scope=scope, data=data, loss=loss, evaluate=evaluate,
            recover=recover, samples=samples, seed=seed, schedule=schedule, latency=latency,
            stream=stream, resume=resume, on_trial=on_trial,
        )  # fmt: skip
    if stream is not None:
        raise _no_stream()
    if isinstance(resume, (str, Path)):
        raise RecipeError(
            f"resume={str(resume)!r}: a folder is for stream='blocks'",
            hint="give the attempts of an interrupted search",
        )
    given = Arguments.of(
        unit=cast(Any, unit), criterion=cast(Any, criterion), budget=budget, allocate=allocate,
        scope=scope, data=data, loss=loss, recover=cast(Any, recover), samples=samples,
        seed=seed, schedule=schedule,
    )  # fmt: skip
    call = given.call(model, example)
    _check(model)
    start = perf_counter()
    shop = given.workshop(model, call)
    planned = perf_counter()
    judge = None if evaluate is None or measured(given.budget) else _judge(evaluate, model)
    first = _timed({"before": model}, call)["before"] if latency else None
    earlier = plans_of(model)
    if given.recover or given.schedule or measured(given.budget):
        found = _search(shop, given, call, evaluate, judge, resume, on_trial)
        _install(shop, found, optimizer, rollback)
    else:
        trial = shop.cut_in_place(given.budget, optimizer=optimizer, rollback=rollback)
        found = Found(trial, (), None, None, None, None, ())
    compact(model)
    built = perf_counter()
    second = _timed({"after": model}, call)["after"] if latency else None
    remember(model, (*earlier, *_plans(found)))
    result = _result(shop, model, found, judge, (first, second))
    return replace(result, seconds={"analyse": planned - start, "make": built - planned})


def _no_stream() -> RecipeError:
    return RecipeError(
        "stream='blocks' is for single weights", hint="use unit=Weight(), NM(2, 4) or Block(4, 1)"
    )


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
    given: Arguments,
    call: Call,
    evaluate: Evaluate | None,
    judge: Judge | None,
    resume: Iterable[Attempt],
    on_trial: OnTrial | None,
) -> Found:
    if given.schedule is not None:
        return cycles(
            lambda model, taught: given.workshop(model, call, taught), shop, given.budget,
            given.schedule, evaluate=evaluate, judge=judge, seed=given.seed, resume=resume,
            on_cycle=on_trial,
        )  # fmt: skip
    return search(
        shop.build, shop.model, given.budget, evaluate=evaluate, example=call, seed=given.seed,
        cost="macs" if shop.decider.cost.table is None else "ns",
        resume=resume, on_trial=on_trial, sketch=shop.sketch, finish=shop.repair,
    )  # fmt: skip


def _plans(found: Found) -> tuple[Plan, ...]:
    """The cuts that led to what was found, first to last."""
    return found.plans or (found.trial.plan,)


def _install(shop: Workshop, found: Found, optimizer: Optimizer | None, rollback: bool) -> None:
    """Cut the model as the trial was cut, and give it the trial's repaired tensors."""
    model, graph, edits = shop.model, shop.graph, list[Edit]()
    try:
        for number, plan in enumerate(_plans(found)):
            graph = analyze(model, shop.call) if number else graph
            edits.append(
                cut_verified(model, shop.call, graph, plan, optimizer=optimizer, keep=rollback)[0]
            )
    except BaseException:
        for edit in reversed(edits if rollback else []):
            edit.undo()
        raise
    repaired = dict(named_tensors(found.trial.model))
    with torch.no_grad():
        for name, tensor in named_tensors(model):
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
    costs = shop.decider.cost.by_module()
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
        cycles=len(_plans(found)),
        work={module: cost.macs for module, cost in costs.items() if cost.macs},
    )
