"""The `config.json` of a pruned transformers model, where widths are all that a cut has changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from secateur.apply.verify import compare, run_detached
from secateur.core.batches import Call
from secateur.ship.sparse import KEY
from secateur.train.hosts.library import library

CONFIG = "config.json"
_ROUNDS = 8
Shapes = dict[str, tuple[int, ...]]


def is_transformers(model: nn.Module) -> bool:
    """Whether the model is one of the transformers library, and so has a config that builds it."""
    kinds = [kind for kind in type(model).__mro__ if kind.__name__ == "PreTrainedModel"]
    return any(kind.__module__.partition(".")[0] == "transformers" for kind in kinds)


def fitted_config(model: nn.Module, call: Call | None = None) -> Any | None:
    """A config from which the model's class builds a model of these shapes; None if there is none.

    Integers of the config are changed one at a time: models without memory, built from changed
    configs, show which dimensions each decides and how. What the cut left must follow from one
    value of each, so that layers of different widths have no config. The new model is built,
    given the weights, and compared with the pruned one on the call.

    call: an example; without it, shapes alone decide. Memory: a second model while it compares.
    """
    if not is_transformers(model):
        return None
    wanted = _shapes(model)
    kind, config = type(model), copy.deepcopy(model.config)
    _explicit_heads(config)
    for _ in range(_ROUNDS):
        have = _built(kind, config)
        if have is None or have.keys() != wanted.keys():
            return None
        if have == wanted:
            return config if call is None or _same(kind, config, model, call) else None
        changed = _step(kind, config, have, wanted)
        if changed is None:
            return None
        setattr(config, *changed)
    return None


def _step(kind: type, config: Any, have: Shapes, wanted: Shapes) -> tuple[str, int] | None:
    """A key of the config and the value of it that the shapes ask for."""
    wrong = {
        (name, dim)
        for name, shape in have.items()
        for dim, size in enumerate(shape)
        if size != wanted[name][dim]
    }
    for key, old in _integers(config):
        for other in (2 * old, old // 2):
            seen = None if other in (0, old) else _built(kind, config, {key: other})
            if seen is not None and seen.keys() == have.keys():
                value = _value(old, other, have, seen, wanted, wrong)
                if value is not None:
                    return key, value
                break
    sizes = {wanted[name][dim] for name, dim in wrong}
    for key in (key for key, value in config.to_dict().items() if value is None):
        for size in sorted(sizes):  # an inner width that is a multiple of another one by default
            seen = _built(kind, config, {key: size})
            if seen is not None and seen.keys() == have.keys():
                right = {place for place in wrong if seen[place[0]][place[1]] == size}
                if right and _moved(have, seen) <= wrong:
                    return key, size
    return None


def _value(
    old: int,
    other: int,
    have: Shapes,
    seen: Shapes,
    wanted: Shapes,
    wrong: set[tuple[str, int]],
) -> int | None:
    """The one value by which every dimension that the key decides becomes what it must be."""
    moved = _moved(have, seen)
    if not moved & wrong:
        return None
    found = set()
    for name, dim in moved:
        slope = Fraction(seen[name][dim] - have[name][dim], other - old)
        found.add(old + (wanted[name][dim] - have[name][dim]) / slope)
    value = found.pop()
    fits = not found and value.denominator == 1 and value >= 1 and value != old
    return int(value) if fits else None


def _moved(have: Shapes, seen: Shapes) -> set[tuple[str, int]]:
    return {
        (name, dim)
        for name, shape in have.items()
        for dim, size in enumerate(shape)
        if len(seen[name]) == len(shape) and seen[name][dim] != size
    }


def _integers(config: Any) -> Iterator[tuple[str, int]]:
    """Keys with whole numbers: counts of heads before widths, the width of a head last."""
    found = [
        (key, value)
        for key, value in config.to_dict().items()
        if type(value) is int and value > 0 and hasattr(config, key)
    ]
    yield from sorted(found, key=lambda item: ("head_dim" in item[0], "head" not in item[0]))


def _explicit_heads(config: Any) -> None:
    """The width of a head as a number, where the config may say it and leaves it open."""
    if "head_dim" not in config.to_dict() or config.head_dim is not None:
        return
    config.head_dim = config.hidden_size // config.num_attention_heads


def _built(kind: type, config: Any, changes: Mapping[str, int] | None = None) -> Shapes | None:
    """The shapes of a model without memory; None if the changed config makes no sense."""
    config = copy.deepcopy(config)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            for key, value in (changes or {}).items():
                setattr(config, key, value)
            return _shapes(kind(config))
    except Exception:  # whatever a class thinks of a config that it was not meant for
        return None


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _same(kind: type, config: Any, model: nn.Module, call: Call) -> bool:
    """Whether a model from the config, with the weights, gives the same outputs."""
    first = next(model.parameters())
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        other = kind(copy.deepcopy(config)).to(first.device, first.dtype)
    other.load_state_dict(model.state_dict())
    return compare(run_detached(model, call), run_detached(other, call)).ok


def is_packed(path: Path) -> bool:
    """Whether a file stores weights as values and places, which transformers cannot read."""
    with safe_open(path, framework="pt") as file:
        return KEY in (file.metadata() or {})


def write_config(model: nn.Module, config: Any, folder: Any) -> None:
    """Write it, with the class that it builds, so that `AutoModel` finds it."""
    library("transformers", "transformers")
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)


__all__ = ["CONFIG", "fitted_config", "is_packed", "is_transformers", "write_config"]
