"""Makes a plan permanent: smaller tensors, corrected attributes, optimizer state cut alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.apply.edit import Edit, restoring
from secateur.apply.modules import Skip, refresh
from secateur.core.errors import StalePlan
from secateur.core.plan import Plan, fingerprint
from secateur.core.tensors import named_tensors


def replay(
    model: nn.Module,
    plan: Plan,
    *,
    optimizer: Optimizer | None = None,
    keep: bool = True,
    check: bool = True,
) -> Edit:
    """Apply a plan in place, without verification; the returned edit can undo it.

    Parameters keep their identity (`param.data` becomes smaller), so that optimizers and tied
    weights still refer to them. Memory: the cut tensors, plus the old ones while `keep` is on.

    Raises:
        StalePlan: The plan was made for another model.
    """
    if check:
        check_fingerprint(model, plan)
    edit = Edit(keep=keep)
    with restoring(edit), torch.no_grad():
        for name in plan.removed:
            edit.child(model, name, Skip(as_tuple=name in plan.tuples))
        _cut_tensors(edit, model, plan, optimizer)
        _forget_flat_state(edit, optimizer)
        counts = plan.counts
        for attribute in plan.attributes:
            if not _inside(attribute.module, plan.removed):
                module = model.get_submodule(attribute.module)
                edit.attribute(module, attribute.path, attribute.new_value(counts))
        for module in model.modules():
            refresh(edit, module)
    return edit


def check_fingerprint(model: nn.Module, plan: Plan) -> None:
    """Raise `StalePlan` unless the plan was made for a model with these tensors."""
    if fingerprint(model) != plan.fingerprint:
        raise StalePlan(
            f"the plan does not fit this {type(model).__name__}: its tensors have other names, "
            "shapes or types",
            hint="apply a plan to the model it was made for, before any other cut",
        )


def _inside(name: str, removed: tuple[str, ...]) -> bool:
    return any(name == block or name.startswith(block + ".") for block in removed)


def _cut_tensors(edit: Edit, model: nn.Module, plan: Plan, optimizer: Optimizer | None) -> None:
    keeps = plan.keeps
    cache: dict[object, np.ndarray] = {}
    for name, tensor in named_tensors(model):
        layouts = plan.layouts.get(name)
        if layouts is None:
            continue
        steps: list[tuple[int, Tensor]] = []
        for d, layout in enumerate(layouts):
            if not layout.names & keeps.keys():
                continue
            if layout not in cache:
                cache[layout] = layout.keep(keeps)
            mask = cache[layout]
            if not mask.all():
                steps.append((d, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device)))
        if steps:
            _cut_state(edit, tensor, steps, optimizer)
            grad = tensor.grad if tensor.is_leaf else None
            edit.data(
                tensor, _take(tensor.data, steps), None if grad is None else _take(grad, steps)
            )


def _take(tensor: Tensor, steps: list[tuple[int, Tensor]]) -> Tensor:
    order = _ORDERS.get(tensor.dim())
    kept = order is not None and tensor.is_contiguous(memory_format=order)
    for d, index in sorted(steps, key=lambda step: len(step[1]) / tensor.shape[step[0]]):
        tensor = tensor.index_select(d, index)
    return tensor.contiguous(memory_format=order) if kept else tensor


_ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _cut_state(
    edit: Edit, tensor: Tensor, steps: list[tuple[int, Tensor]], optimizer: Optimizer | None
) -> None:
    """Cut the state of a parameter, whatever the optimizer calls it.

    A state tensor follows the parameter along every dimension that it has in common with it: all of
    them (momenta), or all but one (the rows and columns of Adafactor, kept as [n, 1] or as [n]).
    """
    if optimizer is None or tensor not in optimizer.state:
        return
    state = optimizer.state[tensor]
    for key, value in list(state.items()):
        if not isinstance(value, Tensor):
            continue
        dims = _common_dims(str(key), value.shape, tensor.shape)
        mine = [(dims.index(d), index) for d, index in steps if d in dims]
        mine = [(d, index) for d, index in mine if value.shape[d] != 1]
        if mine:
            edit.entry(state, key, _take(value, mine))


def _common_dims(key: str, shape: torch.Size, whole: torch.Size) -> list[int]:
    """Which dimensions of the parameter the dimensions of a state tensor are; [] for none."""
    rank = len(whole)
    every = list(range(rank))
    if len(shape) == rank and all(n in (1, m) for n, m in zip(shape, whole, strict=True)):
        return every
    rows, columns = every[:-1], [*every[:-2], *every[-1:]]
    for dims in (columns, rows) if "col" in key else (rows, columns):
        if rank > 1 and tuple(shape) == tuple(whole[d] for d in dims):
            return dims
    return []


def _forget_flat_state(edit: Edit, optimizer: Optimizer | None) -> None:
    """L-BFGS keeps one flat vector for all parameters: its history starts anew."""
    if isinstance(optimizer, torch.optim.LBFGS):
        edit.clear(optimizer.state)
        optimizer._numel_cache = None
