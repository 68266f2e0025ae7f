"""Training that was interrupted goes on: its last round in a folder, without any pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.core.errors import FileError

RECORD = "training.json"
_VERSION = 1


class Checkpoint:
    """The state of one training in a folder of its own, named after what is trained and how.

    A folder holds `training.json` and the tensors of the round that it names; both are whole at any
    time. All processes have to see the folder.

    Raises:
        FileError: The folder holds something else, or a damaged state.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.key = key
        self.folder = Path(folder) / key[:16]

    def save(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace what is there; to be called by one process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"round-{record['round']}.safetensors"
        apart = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        save_file(apart, self.folder / name)
        value = {"version": _VERSION, "key": self.key, "tensors": name, **record}
        beside = self.folder / (RECORD + ".tmp")
        beside.write_text(json.dumps(value, indent=1))
        beside.replace(self.folder / RECORD)
        for old in self.folder.glob("round-*.safetensors"):
            if old.name != name:
                old.unlink()

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """What was saved last, or None."""
        path = self.folder / RECORD
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text())
            if record["version"] != _VERSION or record["key"] != self.key:
                raise ValueError("another version")
            return record, load_file(self.folder / Path(record["tensors"]).name)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FileError(
                f"the checkpoint {self.folder} cannot be read: {error}",
                hint="delete the folder to train anew",
            ) from error


def key_of(model: nn.Module, **settings: Any) -> str:
    """SHA-256 over the weights that training starts from and all that decides its course."""
    digest = sha256(json.dumps(settings, sort_keys=True, default=_name).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def _name(value: object) -> str:
    """What is not plain is known by its name, and functions by what they do too."""
    code = getattr(value, "__code__", None)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return name if code is None else f"{name} {_text(code)}"


def _text(code: CodeType) -> str:
    """A function's code as text that is the same in another process."""
    constants = [_text(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return " ".join([code.co_code.hex(), *code.co_names, *constants])


def model_state(model: nn.Module, *, everywhere: bool = False) -> dict[str, Tensor]:
    """All tensors of a model, whole, whether it is plain, replicated or sharded.

    Of a sharded model the first process has them, or all processes do.
    """
    states = _states()
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)
    return states.get_model_state_dict(model, options=options)


def set_model_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The reverse, where all processes have the state."""
    states = _states()
    options = states.StateDictOptions(full_state_dict=True)
    states.set_model_state_dict(model, dict(state), options=options)


def optimizer_state(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state, whole: its tensors by "parameter|key", and its plain values.

    Of several processes the first one has it.
    """
    states = _states()
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    found = states.get_optimizer_state_dict(model, optimizer, options=options)
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for name, entries in found.get("state", {}).items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{key}"] = value
            else:
                plain.setdefault(name, {})[key] = value
    return tensors, {"plain": plain, "groups": found.get("param_groups", [])}


def set_optimizer_state(
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """The reverse; a state without any tensor is that of a new optimizer."""
    if not tensors:
        return
    whole: dict[str, dict[str, Any]] = {k: dict(v) for k, v in values["plain"].items()}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("|")
        whole.setdefault(name, {})[entry] = tensor
    states = _states()
    options = states.StateDictOptions(full_state_dict=True)
    groups = {"state": whole, "param_groups": values["groups"]}
    states.set_optimizer_state_dict(model, optimizer, groups, options=options)


def _states() -> Any:
    """PyTorch's module for states of distributed models, which is slow to import."""
    return import_module("torch.distributed.checkpoint.state_dict")
