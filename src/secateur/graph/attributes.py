"""Finds the integers stored in a model's Python, and traces them for the time of one run.

Modules keep sizes in attributes (`self.num_heads`), in lists and tuples of them, in dictionaries
and in configuration objects shared between modules. Each becomes a `TracedInt` with the atom
`("attr", key)`; afterwards everything is put back.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from secateur.core.paths import rebuilt
from secateur.graph.sizes import TracedInt

_INTERNAL = frozenset(nn.Module().__dict__) | {
    "_flat_weights",
    "_flat_weights_names",
    "_all_weights",
}
_OPAQUE = (
    nn.Module,
    torch.Tensor,
    types.ModuleType,
    types.FunctionType,
    type,
    str,
    bytes,
    float,
    Enum,
)
_LIBRARIES = frozenset(sys.stdlib_module_names - {"types", "argparse", "__main__"}) | {
    "torch", "numpy", "lightning", "pytorch_lightning", "accelerate", "tokenizers", "secateur",
}  # fmt: skip
_DEPTH = 4


@dataclass(frozen=True)
class Slot:
    """One integer: the module and path under which it was found first, and its value."""

    module: str
    path: str
    value: int


class AttributeTracer:
    """Replaces integers by traced ones inside `with tracer.traced(model)`."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self._seen: dict[int, Any] = {}
        self._undo: list[tuple[Any, Any, Any, Any]] = []

    @contextmanager
    def traced(self, model: nn.Module) -> Iterator[None]:
        """Trace every stored integer above 1; restore and clean what the run stored at the end."""
        try:
            for name, module in model.named_modules():
                self._fields(module.__dict__, name, "", 0, skip=_INTERNAL)
            yield
        finally:
            for container, key, new, old in reversed(self._undo):
                if (
                    container.get(key) is new
                    if isinstance(container, dict)
                    else container[key] is new
                ):
                    container[key] = old
            for module in model.modules():
                _clean(module.__dict__, 0)
            self._seen.clear()

    def _fields(
        self,
        fields: dict[Any, Any],
        module: str,
        path: str,
        depth: int,
        skip: frozenset[str] = frozenset(),
    ) -> None:
        if id(fields) in self._seen or depth > _DEPTH:
            return
        self._seen[id(fields)] = fields
        for key in list(fields):
            if isinstance(key, str) and key not in skip and "." not in key:
                self._replace(fields, key, module, f"{path}.{key}" if path else key, depth)

    def _replace(self, container: Any, key: Any, module: str, path: str, depth: int) -> None:
        old = container[key]
        new = self._convert(old, module, path, depth)
        if new is not old:
            container[key] = new
            self._undo.append((container, key, new, old))

    def _convert(self, value: Any, module: str, path: str, depth: int) -> Any:
        """The traced form of a value; lists, dictionaries and objects are changed in place."""
        if type(value) is int:
            if value < 2:
                return value
            key = len(self.slots)
            self.slots[key] = Slot(module, path, value)
            return TracedInt.make(value, ("attr", key))
        if isinstance(value, tuple) and depth < _DEPTH:
            if not any(type(item) in (int, tuple, list) for item in value):
                return value
            return rebuilt(
                value,
                [self._convert(v, module, f"{path}.{i}", depth + 1) for i, v in enumerate(value)],
            )
        if type(value) is list and depth < _DEPTH and id(value) not in self._seen:
            self._seen[id(value)] = value
            for index in range(len(value)):
                self._replace(value, index, module, f"{path}.{index}", depth + 1)
        elif isinstance(value, dict):
            self._fields(value, module, path, depth + 1)
        if _is_record(value):
            self._fields(value.__dict__, module, path, depth + 1)
        return value


def _is_record(value: Any) -> bool:
    """Whether an object may hold the user's sizes: a configuration, not a part of some library."""
    if not hasattr(value, "__dict__") or isinstance(value, _OPAQUE) or callable(value):
        return False
    return type(value).__module__.partition(".")[0] not in _LIBRARIES


def _clean(fields: dict[Any, Any], depth: int) -> None:
    """Turn traced integers that the model's forward stored itself back into plain ones."""
    for key, value in list(fields.items()):
        if type(value) is TracedInt:
            fields[key] = int(value)
        elif type(value) in (tuple, torch.Size) and any(type(item) is TracedInt for item in value):
            fields[key] = type(value)([int(v) if type(v) is TracedInt else v for v in value])
        elif type(value) is dict and depth < _DEPTH and key not in _INTERNAL:
            _clean(value, depth + 1)
        elif type(value) is list and any(type(item) is TracedInt for item in value):
            value[:] = [int(v) if type(v) is TracedInt else v for v in value]
