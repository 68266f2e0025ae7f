"""Names for everything in a model that a cut may touch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every distinct parameter and buffer, and tensors kept as plain attributes, with a name."""
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        seen.add(id(tensor))
        yield name, tensor
    for prefix, module in model.named_modules():
        for key, value in list(module.__dict__.items()):
            if key in _REGISTERED:
                continue
            for path, tensor in _within(value, key, 0):
                if id(tensor) not in seen and tensor.is_leaf:
                    seen.add(id(tensor))
                    yield f"{prefix}.{path}" if prefix else path, tensor


_REGISTERED = frozenset(nn.Module().__dict__) | {"_flat_weights"}


def _within(value: object, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors in an attribute: itself, or those in its lists and dictionaries (caches)."""
    if isinstance(value, Tensor):
        yield path, value
    elif depth < 2 and type(value) in (list, tuple):
        for k, item in enumerate(value):  # type: ignore[arg-type]
            yield from _within(item, f"{path}.{k}", depth + 1)
    elif depth < 2 and type(value) is dict:
        for k, item in value.items():
            yield from _within(item, f"{path}.{k}", depth + 1)


def caches(model: nn.Module) -> list[dict[Any, Any]]:
    """Dictionaries of tensors in attributes: what a forward may have computed earlier."""
    return [
        value
        for module in model.modules()
        for key, value in module.__dict__.items()
        if key not in _REGISTERED and type(value) is dict and value
        if all(isinstance(item, Tensor) for item in value.values())
    ]


def light_copy(model: nn.Module) -> nn.Module:
    """A deep copy that shares the parameters' memory (until `own_memory`); buffers are copied.

    Cutting the copy replaces its shared tensors by smaller ones, so that a model and its cut copy
    never take more than the sum of their sizes.
    """
    memo: dict[int, object] = {}
    for _, parameter in model.named_parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
    for _, buffer in model.named_buffers():
        memo[id(buffer)] = buffer.detach().clone()
    for module in model.modules():
        for key, stored in module.__dict__.items():
            for _, value in _within(stored, key, 0) if key not in _REGISTERED else ():
                memo[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
    try:
        twin = copy.deepcopy(model, memo)
        for module in twin.modules():
            if isinstance(module, torch.jit.ScriptModule):  # PyTorch's own copy has no parameters
                for name, value in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(value.detach().clone()))
        return twin
    except Exception as error:
        raise InputError(
            f"the model cannot be copied: {type(error).__name__}: {error}",
            hint="use sc.prune_, which works in place",
        ) from error


def snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that puts back, in place, what parameters and buffers hold now.

    Memory: a copy of them, as long as the function lives.
    """
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)

    return restore


def own_memory(model: nn.Module, original: nn.Module) -> None:
    """Give the copy its own memory wherever it still shares the original's."""
    theirs = {p.data_ptr() for p in original.parameters()}
    for parameter in model.parameters():
        if parameter.data_ptr() in theirs:
            parameter.data = parameter.data.clone()
    compact(model)


def compact(model: nn.Module) -> None:
    """Let the weights of recurrent layers lie one behind the other, as cuDNN wants them.

    Where they do not, it copies them in every call, and warns. On the CPU nothing happens.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
