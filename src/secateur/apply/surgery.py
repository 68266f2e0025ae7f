"""A cut with its proof: reference run, cut, comparison, and the way back."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from secateur.apply.cut import check_fingerprint
from secateur.apply.cut import replay as apply_plan
from secateur.apply.edit import Edit, restoring
from secateur.apply.mask import zero
from secateur.apply.modules import Skip
from secateur.apply.reference import Diverged, run_reference
from secateur.apply.verify import (
    Comparison,
    compare,
    double_copy,
    in_double,
    mismatch,
    run_detached,
)
from secateur.core.batches import Call, tensors_in, untouched
from secateur.core.errors import InputError, VerificationError
from secateur.core.plan import Plan, Reason
from secateur.core.result import Verification
from secateur.core.tensors import caches
from secateur.graph.graph import Graph, Replay
from secateur.graph.sizes import short_path


class CutFailed(VerificationError):
    """The cut model could not run, or disagreed; the model was restored unless rollback was off."""

    def __init__(self, error: VerificationError, reason: Reason, *, restored: bool = True) -> None:
        end = "the model was restored" if restored else "the model is unusable, as rollback was off"
        super().__init__(f"{error.message}; {end}", hint=error.hint)
        self.reason = reason


def cut_verified(
    model: nn.Module,
    call: Call,
    graph: Graph,
    plan: Plan,
    *,
    optimizer: Optimizer | None = None,
    keep: bool = True,
) -> tuple[Edit, Verification]:
    """Cut in place and compare with the masked original on the example.

    Takes one reference pass and one pass of the smaller model. Memory: the cut tensors, the old
    ones while `keep` is on.

    Raises:
        CutFailed: The outputs differ, or the cut model raises; the model is as it was.
        StalePlan: The plan was made for another model.
    """
    check_fingerprint(model, plan)
    emptied = Edit()
    for cache in caches(model) if graph.stale_caches else []:
        emptied.clear(cache)
    with restoring(emptied):
        return _cut_verified(model, call, graph, plan, optimizer, keep)


def _cut_verified(
    model: nn.Module,
    call: Call,
    graph: Graph,
    plan: Plan,
    optimizer: Optimizer | None,
    keep: bool,
) -> tuple[Edit, Verification]:
    statistical = any(graph.axes[name].statistical for name in plan.sites if name in graph.axes)
    reference, method = _reference(model, call, graph, plan)
    if _has_nan(reference):
        if _has_nan(run_detached(model, call)):
            raise InputError(
                "the model's outputs on the example are not numbers (NaN): no cut can be verified",
                hint="check the weights and the example for NaN",
            )
        error = VerificationError("what would be left gives outputs that are not numbers (NaN)")
        raise CutFailed(error, Reason("without it the outputs are not numbers (NaN)"))
    edit = apply_plan(model, plan, optimizer=optimizer, keep=keep, check=False)
    with restoring(edit):  # also when interrupted
        try:
            outputs = run_detached(model, call)
        except Exception as error:
            raise CutFailed(_crash(error), _reason(error), restored=keep) from error
        result = compare(reference, outputs)
        if not result.ok:
            if keep:
                edit.undo()
                result = _second_opinion(model, call, graph, plan) or result
            if not result.ok:
                failure = mismatch(plan, result)
                text = "its cut failed verification: " + failure.message.split(": ", 1)[1]
                raise CutFailed(failure, Reason(text), restored=keep)
            edit.merge(apply_plan(model, plan, optimizer=optimizer, keep=keep, check=False))
    note = ""
    if statistical:
        note = "normalisations run over cut axes; the reference's statistics are of what is left"
    verified = Verification(True, statistical, result.difference, result.tolerance, method, note)
    return edit, verified


def _reference(model: nn.Module, call: Call, graph: Graph, plan: Plan) -> tuple[Any, str]:
    edit = Edit()
    try:
        _skip_blocks(edit, model, plan)
        with untouched(model):
            outputs = run_reference(model, call, _without(graph.replay, plan.removed), plan.keeps)
        return narrowed(outputs, graph, plan), "masked original"
    except Diverged:
        edit.undo()
        outputs = narrowed(_zeroed(model, call, plan), graph, plan)
        return outputs, "original with zeroed weights (its control flow depends on the data)"
    finally:
        edit.undo()


def narrowed(outputs: Any, graph: Graph, plan: Plan) -> Any:
    """The outputs, of the recurrent states among them only what the plan keeps."""
    if not graph.states:
        return outputs
    tensors = list(tensors_in(outputs))
    for position, layouts in graph.states.items():
        for dim, layout in enumerate(layouts):
            kept = torch.from_numpy(np.flatnonzero(layout.keep(plan.keeps)))
            tensors[position] = tensors[position].index_select(
                dim, kept.to(tensors[position].device)
            )
    return tensors


def _zeroed(model: nn.Module, call: Call, plan: Plan) -> Any:
    """The outputs of the original with the removed slices of its weights at zero."""
    edit = Edit()
    try:
        zero(edit, model, plan)
        _skip_blocks(edit, model, plan)
        return run_detached(model, call)
    finally:
        edit.undo()


def _has_nan(outputs: Any) -> bool:
    return any(bool(t.isnan().any()) for t in tensors_in(outputs) if t.is_floating_point())


def _skip_blocks(edit: Edit, model: nn.Module, plan: Plan) -> None:
    for name in plan.removed:
        edit.child(model, name, Skip(as_tuple=name in plan.tuples))


def _without(replay: Replay, blocks: Iterable[str]) -> Replay:
    """The run without removed blocks."""
    gone = tuple(blocks)
    if not gone:
        return replay
    prefixes = tuple(name + "." for name in gone)
    kept = [
        index
        for index, (_, module) in enumerate(replay.ops)
        if module not in gone and not module.startswith(prefixes)
    ]
    return Replay(
        tuple(replay.ops[index] for index in kept),
        {
            new: replay.restrictions[old]
            for new, old in enumerate(kept)
            if old in replay.restrictions
        },
    )


def _second_opinion(model: nn.Module, call: Call, graph: Graph, plan: Plan) -> Comparison | None:
    """The same comparison in float64, which tells a rounding difference from a wrong cut."""
    double = double_copy(model)
    if double is None:
        return None
    try:
        wide = in_double(call)
        reference, _ = _reference(double, wide, graph, plan)
        apply_plan(double, plan, keep=False, check=False)
        return compare(reference, run_detached(double, wide))
    except Exception:  # not every model runs in float64
        return None


def _crash(error: Exception) -> VerificationError:
    reason = _reason(error)
    return VerificationError(
        f"the cut model raised {type(error).__name__} at {reason.where or 'an unknown line'}: "
        f"{_first_line(error)}",
        hint="exclude the part that fails with scope=sc.skip(...), or try rewrite=True",
    )


def _reason(error: Exception) -> Reason:
    return Reason(
        f"after a cut the code raises {type(error).__name__}: {_first_line(error)}",
        "",
        _line(error),
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _line(error: Exception) -> str:
    """file:line of the innermost frame that is neither torch's nor ours."""
    own = torch.__file__.rsplit("/", 1)[0]
    here = __file__.rsplit("/", 2)[0]
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith((own, here))
    ]
    return f"{short_path(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def restricted_to(plan: Plan, sites: Iterable[str], removed: Iterable[str] = ()) -> Plan:
    """The same plan with only some of its sites and blocks."""
    names = set(sites)
    return replace(
        plan,
        sites={name: choice for name, choice in plan.sites.items() if name in names},
        removed=tuple(name for name in plan.removed if name in set(removed)),
    )


def culprits(
    model: nn.Module, call: Call, graph: Graph, plan: Plan, *, most: int = 200
) -> dict[str, Reason]:
    """The sites whose cuts fail, found by halving; the model is left as it was.

    Sites that are tied stay together. Sites that fail only together are blamed together. Takes
    about 2 log2(ties) passes a culprit, `most` at most; what is undecided by then is blamed.
    """
    groups = [[name for name in tie.ratios if name in plan.sites] for tie in graph.ties]
    groups = [group for group in groups if group]
    blamed: dict[str, Reason] = {}
    tries = 0

    def failure(part: list[list[str]]) -> Reason | None:
        nonlocal tries
        tries += 1
        trial = restricted_to(plan, [name for group in part for name in group], plan.removed)
        try:
            edit, _ = cut_verified(model, call, graph, trial)
        except CutFailed as error:
            return error.reason
        edit.undo()
        return None

    def search(part: list[list[str]]) -> None:
        reason = failure(part)
        if reason is None:
            return
        if len(part) == 1 or tries > most:
            blamed.update({name: reason for group in part for name in group})
            return
        before = len(blamed)
        half = len(part) // 2
        search(part[:half])
        search(part[half:])
        if len(blamed) == before:  # each half is fine alone: give up the smaller one
            blamed.update({name: reason for group in part[:half] for name in group})

    search(groups)
    return blamed
