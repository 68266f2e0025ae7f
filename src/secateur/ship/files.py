"""A pruned model on disk: `model.safetensors` and `plan.json`, and the way back.

Loading replays the plans on a fresh model and then sets the weights. `plan.json` names the size
and SHA-256 of the weights, so that files of two saves, or a changed file, never load together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from secateur.apply.cut import replay
from secateur.core import paths, plan_json
from secateur.core.errors import FileError, InputError, SecateurError, StalePlan
from secateur.core.history import plans_of, remember
from secateur.core.plan import Plan
from secateur.core.tensors import compact, named_tensors
from secateur.engine.fast import Fast, FastParts
from secateur.ship.sparse import SparseFile
from secateur.ship.twin import meta_twin
from secateur.ship.weights import check_names, described, open_tensors, state_of, write_tensors

WEIGHTS = "model.safetensors"
PLAN = "plan.json"
KIND = "secateur-model"
SCHEMA = 1
_FIELDS = {"kind", "schema", "weights", "plans"}
_WRONG = "load into the model that was pruned, as it was before; see into="
_Module = TypeVar("_Module", bound=nn.Module)


class Saveable(Protocol):
    """A `Result`, or anything with its model and plans."""

    @property
    def model(self) -> nn.Module:
        """The pruned model."""
        ...

    @property
    def plans(self) -> Sequence[Plan]:
        """The plans it went through, first to last."""
        ...


def save(result: Saveable | nn.Module, folder: str | Path, *, sparse: bool = True) -> Path:
    """Write a pruned model into a folder, which is made if needed; returns the folder.

    Weights that are mostly zeros are stored as their values and the places of these, where that
    makes the file at least a tenth smaller.

    Args:
        result: What `prune` gave back, or a model that was pruned in place.
        folder: Its `model.safetensors` and `plan.json` are replaced. A save that is interrupted
            leaves files that refuse to load, or the old ones.
        sparse: False: every tensor is stored whole, so that readers which know nothing of Secateur
            find all of them under their names.

    Raises:
        InputError: The model was not pruned, or holds something that is not a dense tensor.
        FileError: The folder cannot be written.
    """
    if isinstance(result, nn.Module):
        model, plans = result, plans_of(result)
    else:
        model, plans = result.model, tuple(result.plans)
    if isinstance(model, (Fast, FastParts)):
        raise InputError(
            "a packed network is saved as one file of its own, not as weights and plans",
            hint="sc.export(result, 'm.sct'); for both, prune with become='masked' and sc.compile",
        )
    if not plans:
        raise InputError(
            f"this {type(model).__name__} was not pruned, so there is no plan to save with it",
            hint="give the Result of sc.prune, or a model that was pruned in place",
        )
    folder, tag = Path(folder), secrets.token_hex(4)
    new = {name: folder / f".{name}.{tag}" for name in (WEIGHTS, PLAN)}
    state = state_of(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(state, new[WEIGHTS], packed=sparse)
        value = {
            "kind": KIND,
            "schema": SCHEMA,
            "weights": _digest(new[WEIGHTS]),
            "plans": [plan_json.encode(plan) for plan in plans],
        }
        new[PLAN].write_text(json.dumps(value, indent=1), encoding="utf-8")
        shutil.copymode(new[PLAN], new[WEIGHTS])  # safetensors lets only the owner read
        for name in (WEIGHTS, PLAN):
            _flush(new[name])
        for name in (WEIGHTS, PLAN):
            new[name].replace(folder / name)
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        for path in new.values():
            with contextlib.suppress(OSError):
                path.unlink()
    return folder


def load(folder: str | Path, into: _Module | Callable[[], _Module]) -> _Module:
    """Read a pruned model back.

    Args:
        folder: What `save` wrote.
        into: A constructor called without arguments, or a model as it was before the first prune.
            A model that is given is changed in place, and stays bit for bit as it was on failure.

    Returns:
        The pruned model with the saved weights, in the mode (train or eval) that it was in.

    Raises:
        FileError: A file is missing, damaged, from a newer version, or for another model.
        InputError: The constructor does not give a model.
    """
    folder = Path(folder)
    plans, recorded = _read_plans(folder / PLAN)
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    if recorded["bytes"] != path.stat().st_size or _digest(path) != recorded:
        raise FileError(
            f"{path} is not the file that {PLAN} was saved with",
            hint="it was changed or the save was interrupted; save the result again",
        )
    model: Any = into if isinstance(into, nn.Module) else _build(into)
    with open_tensors(path) as (file, stored):
        names = _check(model, plans, file, stored, path)
        _check_ties(model, names, file, path)
        _apply(model, plans, names, file)
    return model


def _read_plans(path: Path) -> tuple[tuple[Plan, ...], dict[str, Any]]:
    """The plans, and the size and hash of the weights that belong to them."""
    try:
        if path.stat().st_size > 4 * plan_json.MAX_TEXT:
            raise FileError(f"{path} is too large to be a plan")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileError(
            f"there is no file {path}", hint=f"a saved model is a folder with {WEIGHTS} and {PLAN}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}") from None
    try:
        return _decode(plan_json.parse(text))
    except FileError as error:
        raise FileError(f"{path}: {error.message}", hint=error.hint) from None


def _decode(value: object) -> tuple[tuple[Plan, ...], dict[str, Any]]:
    fields = value if isinstance(value, dict) else {}
    if fields.get("kind") != KIND:
        raise FileError(f'"kind" is not "{KIND}"', hint="give a folder that sc.save wrote")
    schema = fields.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise FileError(
            f"written by a newer Secateur (schema {schema}; this one reads {SCHEMA})",
            hint="pip install --upgrade secateur",
        )
    weights, plans = fields.get("weights"), fields.get("plans")
    if (
        type(schema) is int
        and schema == SCHEMA
        and fields.keys() == _FIELDS
        and isinstance(weights, dict)
        and weights.keys() == {"bytes", "sha256"}
        and type(weights["bytes"]) is int
        and isinstance(weights["sha256"], str)
        and isinstance(plans, list)
        and plans
    ):
        return tuple(plan_json.decode_value(plan) for plan in plans), weights
    raise FileError("the fields are not those of a saved model", hint="save the result again")


def _build(into: Any) -> Any:
    """Call a constructor; the random state stays as it was."""
    name = getattr(into, "__name__", repr(into))
    if not callable(into):
        raise InputError(f"into={into!r} is neither a model nor a constructor")
    try:
        with torch.random.fork_rng(devices=[]):
            model = into()
    except TypeError as error:
        raise InputError(
            f"{name} could not be called without arguments: {error}",
            hint=f"give a function: into=lambda: {name}(...)",
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} gave a {type(model).__name__}, not a model")
    return model


def _check(
    model: nn.Module,
    plans: Sequence[Plan],
    file: SparseFile,
    stored: Mapping[str, str],
    path: Path,
) -> dict[str, str]:
    """Try everything on a twin without memory; returns state-dict name -> name in the file."""
    twin = meta_twin(model)
    for plan in plans:
        _check_plan(twin, plan)
        try:
            replay(twin, plan, keep=False)
        except StalePlan as error:
            raise FileError(error.message, hint=_WRONG) from error
        except SecateurError:
            raise
        except Exception as error:  # a plan made for other code can fail anywhere
            raise FileError(
                f"the plan cannot be replayed on this {type(model).__name__}: {error}", hint=_WRONG
            ) from error
    wanted = {name: described(t.dtype, t.shape) for name, t in state_of(twin).items()}
    found = {name: described(file.dtype(at), file.shape(at)) for name, at in stored.items()}
    check_names(wanted, found, path)
    return {name: stored[name] for name in wanted}


def _check_plan(model: nn.Module, plan: Plan) -> None:
    """Whether every tensor, attribute and block of a plan is in the model as the plan says."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model)}
    modules = dict(model.named_modules())
    for name, layouts in plan.layouts.items():
        expected = tuple(layout.size for layout in layouts)
        if shapes.get(name) != expected:
            raise FileError(
                f"the plan is for a model with {name} of shape {expected}, "
                f"this one has {shapes.get(name, 'no such tensor')}",
                hint=_WRONG,
            )
    for name in plan.removed:
        if not name or name not in modules:
            raise FileError(f"the plan removes {name!a}, which is not there", hint=_WRONG)
    for attribute in plan.attributes:
        module = modules.get(attribute.module)
        try:
            value = None if module is None else paths.read(module, attribute.path)
        except StalePlan:
            value = None
        if isinstance(value, bool) or not isinstance(value, int) or value != attribute.value:
            where = f"{attribute.module}.{attribute.path}".removeprefix(".")
            raise FileError(
                f"the plan is for a model with {where} = {attribute.value}", hint=_WRONG
            )


def _check_ties(model: nn.Module, names: Mapping[str, str], file: SparseFile, path: Path) -> None:
    """Names that share one tensor in the model must have one value in the file."""
    first: dict[int, str] = {}
    for name, tensor in state_of(model).items():
        if name not in names:
            continue
        other = names[first.setdefault(id(tensor), name)]
        same = other == names[name] or torch.equal(*map(file.get_tensor, (other, names[name])))
        if not same:
            raise FileError(
                f"{path} has two different tensors for {first[id(tensor)]} and {name}, "
                "which are one in the model",
                hint="build the model with untied weights",
            )


def _apply(
    model: nn.Module, plans: Sequence[Plan], names: Mapping[str, str], file: SparseFile
) -> None:
    """Replay for real, then read and set weight by weight; on failure all is taken back."""
    done = []
    try:
        for plan in plans:
            done.append(replay(model, plan))
        tensors = {id(tensor): (name, tensor) for name, tensor in state_of(model).items()}
        for name, tensor in tensors.values():
            done[-1].data(tensor, _like(file.get_tensor(names[name]), tensor), None)
        compact(model)
    except BaseException:
        for edit in reversed(done):
            edit.undo()
        raise
    remember(model, tuple(plans))


def _like(new: Tensor, tensor: Tensor) -> Tensor:
    """The same values in memory of their own, where and as the tensor that they replace is.

    What was read lies in the mapped file, which may change, at addresses for which some kernels
    round differently.
    """
    return torch.empty_like(tensor.data).copy_(new)


def _digest(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _flush(path: Path) -> None:
    """Make sure that the bytes are on the disk before the name points to them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
