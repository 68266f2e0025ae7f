"""States that a recurrent model gives back and takes again: their width is its own business.

A model that returns `(y, state)` and accepts `state=` keeps a memory between calls. Whoever calls
it hands the state back as it came, so the hidden units in it may go, as those of the key-value
cache of a decoder may. It is proven, not guessed: the tensors must be final states of recurrent
layers, and the model must run when it is given them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, tensors_in


def final_states(module: nn.Module, out: Any) -> list[Tensor]:
    """The state tensors that a recurrent layer or cell has just returned."""
    if isinstance(module, nn.RNNBase):
        return list(tensors_in(out[1]))
    return list(tensors_in(out)) if isinstance(module, nn.RNNCellBase) else []


def taken_back(model: nn.Module, call: Call, out: Any, states: list[Tensor]) -> set[int]:
    """The ids of output tensors that are recurrent states which the model takes as an argument.

    Runs the model once for every argument left at None, if it returns a state at all. A cell's
    state that is also the model's result stays an output.
    """
    known = {id(tensor) for tensor in states}
    items = out.values() if isinstance(out, Mapping) else out
    if not isinstance(items, (tuple, list)) and not isinstance(out, Mapping):
        return set()
    parts = [(item, {id(tensor) for tensor in tensors_in(item)}) for item in items]
    inside = [(item, ids) for item, ids in parts if ids and ids <= known]
    outside = set().union(*(ids for _, ids in parts if not ids <= known), set())
    found: set[int] = set()
    for item, ids in inside:
        if outside and any(_runs(model, call, name, item) for name in _open_arguments(model, call)):
            found |= ids - outside
    return found


def _open_arguments(model: nn.Module, call: Call) -> list[str]:
    """Arguments of the forward that default to None and that the call does not give."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    rest = named[len(call.args) :] if len(named) == len(parameters) else named
    return [p.name for p in rest if p.default is None and p.name not in call.kwargs]


def _runs(model: nn.Module, call: Call, name: str, value: Any) -> bool:
    try:
        with torch.no_grad():
            model(*call.args, **call.kwargs, **{name: value})
        return True
    except Exception:  # it is no argument for a state
        return False
