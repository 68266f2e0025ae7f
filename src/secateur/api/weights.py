"""Pruning of single weights: what `prune` and `prune_` do for `Weight`, `NM` and `Block`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn

from secateur.allocate.weights import Allocate
from secateur.api.arguments import Common, common
from secateur.api.packing import DENSE, KernelPacker, packed
from secateur.core.attempt import Attempt
from secateur.core.batches import Call
from secateur.core.budget import Budget, QualityBudget, Sparsity, measured
from secateur.core.budget import Latency as LatencyBudget
from secateur.core.cache import cache_folder
from secateur.core.errors import InputError, RecipeError
from secateur.core.history import plans_of, remember
from secateur.core.measured import Latency, Measured
from secateur.core.result import Result
from secateur.measure.calibration import calibration
from secateur.measure.clock import compare as compare_latency
from secateur.measure.paired import Judge
from secateur.measure.quality import Evaluate
from secateur.recover.weights import solvers
from secateur.score.weight import WeightScore
from secateur.search.cycles import cycles
from secateur.search.loop import Found, search
from secateur.search.weights import KERNELS, SENSITIVITY, WeightShop, WeightTrial
from secateur.units import NM, Block, Weight, WeightUnit, weight_sites

NOTE = f"{DENSE} still have all"


def weight_unit(unit: Any) -> WeightUnit | None:
    """The unit where it is one of single weights; None where it is structural.

    Raises:
        RecipeError: Both kinds are given together, or several of single weights.
    """
    listed = list(unit) if isinstance(unit, (list, tuple)) else [unit]
    for one in listed:
        if one in (Weight, NM, Block):
            raise RecipeError(f"{one.__name__} is a class", hint=f"write {one.__name__}()")
    found = [one for one in listed if isinstance(one, (Weight, NM, Block))]
    if found and len(listed) > 1:
        raise RecipeError(
            f"unit={unit!r}: single weights cannot be pruned together with another unit",
            hint="prune twice: channels first, then weights of what is left",
        )
    return found[0] if found else None


@dataclass(frozen=True)
class WeightArguments(Common):
    """The arguments of a prune of single weights; `of` fills in what was left open."""

    unit: WeightUnit
    criterion: str | WeightScore
    allocate: Allocate

    @classmethod
    def of(
        cls, unit: WeightUnit, *, criterion: Any = None, allocate: Any = None, **others: Any
    ) -> WeightArguments:
        """Defaults: magnitudes, LAMP where the pattern is free, least squares where there is data.

        others: see `common`.

        Raises:
            RecipeError, InputError: Something makes no sense; nothing was computed.
        """
        usual = Sparsity(1 - unit.n / unit.m if isinstance(unit, NM) else 0.5)
        if allocate is None:
            allocate = "lamp" if unit.pattern.free else "uniform"
        return cls(
            **common(usual, **others),
            unit=unit,
            criterion="magnitude" if criterion is None else criterion,
            allocate=allocate,
        )

    @property
    def solves(self) -> bool:
        """Whether the criterion is a solver."""
        return isinstance(self.criterion, str) and self.criterion in solvers

    def shop(
        self,
        model: nn.Module,
        call: Call,
        *,
        in_place: bool,
        dense: nn.Module | None = None,
        packer: KernelPacker | None = None,
    ) -> WeightShop:
        """The model with its weights in scope; dense: what it is to be like, if not itself."""
        sites = weight_sites(model, self.scope)
        if not sites:
            raise RecipeError(
                "there is no weight of a linear, convolutional, recurrent or attention layer in "
                "scope",
                hint="widen the scope",
            )
        calls = None
        if self.batches is not None and (
            self.solves or self.recover or self.allocate in (SENSITIVITY, KERNELS)
        ):
            calls = calibration(model, self.batches, samples=self.samples)
        return WeightShop(
            model, call, sites, self.unit.pattern, self.criterion, self.allocate, calls,
            self.batches, self.loss, self.recover, self.seed, in_place=in_place, reference=dense,
            data=self.data, packer=packer,
        )  # fmt: skip


def prune_weights(
    model: nn.Module,
    example: Any,
    unit: WeightUnit,
    *,
    in_place: bool,
    evaluate: Evaluate | None = None,
    latency: bool = True,
    resume: Iterable[Attempt] = (),
    on_trial: Callable[[Attempt], None] | None = None,
    become: bool = False,
    **arguments: Any,
) -> Result:
    """Remove single weights: of a copy, or in place; the arguments are those of `prune_`.

    The result's `masks` say what stays. Its plan has no sites: shapes are as they were. become: the
    result's model runs on sparse kernels; a budget of latency is then one of these.
    """
    timed = _about_time(become, arguments)
    if timed and arguments.get("allocate") is None:
        arguments["allocate"] = KERNELS
    given = WeightArguments.of(unit, **arguments)
    call = given.call(model, example)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError(f"{name} is on the meta device", hint="load the weights first")
    start = perf_counter()
    goals = measured(given.budget)
    packer = KernelPacker(model, call, cache_folder(), always=True) if timed else None
    shop = given.shop(
        model, call, in_place=in_place and not goals and not given.schedule, packer=packer
    )
    ready = perf_counter()
    later = become and not any(isinstance(goal, QualityBudget) for goal in goals)
    judge = None if evaluate is None or goals or later else Judge(evaluate, model, split=False)
    first = _timed(model, call) if latency and in_place else None
    if given.schedule is not None:
        found = cycles(
            lambda small, taught: given.shop(small, call, in_place=False, dense=taught.teacher),
            shop, given.budget, given.schedule, evaluate=evaluate, judge=judge,
            cost="params", seed=given.seed, resume=resume, on_cycle=on_trial,
        )  # fmt: skip
    else:
        found = search(
            shop.build, model, given.budget, evaluate=evaluate, example=call,
            cost="ns" if given.allocate == KERNELS else "params", seed=given.seed, resume=resume,
            on_trial=on_trial, sketch=shop.sketch, finish=shop.repair,
        )  # fmt: skip
    trial = found.trial
    assert isinstance(trial, WeightTrial)
    after = trial.model
    if in_place and after is not model:
        install(model, after)
        after = model
    built = perf_counter()
    times: tuple[Latency | None, Latency | None] = (None, None)
    if latency and in_place:
        times = first, _timed(model, call)
    elif latency and not become:
        both = {"before": partial(call.run, model), "after": partial(call.run, after)}
        timed = compare_latency(both)
        times = timed["before"], timed["after"]
    remember(after, (*plans_of(model), trial.plan))
    result = weight_result(after, trial, found, judge, times)
    if become:
        result = packed(
            result, model, call, runs=trial.runs, evaluate=evaluate if later else None,
            latency=latency,
        )  # fmt: skip
    return replace(result, seconds={"analyse": ready - start, "make": built - ready})


def _about_time(become: bool, arguments: Mapping[str, Any]) -> bool:
    """Whether sparse kernels are to meet a budget of latency.

    Raises:
        RecipeError: Nothing could meet it.
    """
    budget = arguments.get("budget")
    parts = budget.parts if isinstance(budget, Budget) else ()
    goals = [part for part in parts if isinstance(part, LatencyBudget)]
    if goals and not become:
        raise RecipeError(
            f"{goals[0]!r}: dense kernels take the same time for zeros",
            hint="become='packed' runs them on sparse kernels; unit=Channel() cuts instead",
        )
    if goals and arguments.get("schedule") is not None:
        raise RecipeError(
            f"{goals[0]!r}: cycles do not look at what sparse kernels take",
            hint="leave schedule= out",
        )
    if any(part.batch is not None for part in goals):
        raise RecipeError(
            f"{goals[0]!r}: kernels are timed on the example as it is",
            hint="give an example of that batch, and leave batch= out",
        )
    return bool(goals)


def install(model: nn.Module, other: nn.Module) -> None:
    """Give a model the values of a copy of it."""
    values = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(values[name])


def _timed(model: nn.Module, call: Call) -> Latency:
    return compare_latency({"model": partial(call.run, model)})["model"]


def weight_result(
    model: nn.Module,
    trial: WeightTrial,
    found: Found,
    judge: Judge | None,
    times: tuple[Latency | None, Latency | None],
) -> Result:
    """What a prune of single weights gives back."""
    quality = found.quality
    if judge is not None:
        quality = judge.report(judge.read(model), model)
    values = (None, None) if quality is None else (quality.before, quality.after)
    old, new = (
        Measured(a.params, a.macs, a.bytes, times[k], values[k])
        for k, a in enumerate((trial.before, trial.amounts))
    )
    return Result(
        model=model, plan=trial.plan, plans=plans_of(model), before=old, after=new,
        verification=None, notes=(NOTE, *trial.notes), repairs=trial.repairs, quality=quality,
        search=found.lines, attempts=found.attempts, masks=trial.masks,
    )  # fmt: skip


__all__ = ["WeightArguments", "install", "prune_weights", "weight_result", "weight_unit"]
