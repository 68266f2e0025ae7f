"""Batches from a user's code: `path/file.py:loader`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.cli.arrays import LABEL_KEYS
from secateur.cli.spec import attribute, from_file, said
from secateur.cli.wanted import Wanted, check_finite
from secateur.core.batches import tensors_in
from secateur.core.errors import InputError, SecateurError


def own_batches(
    spec: str, path: Path, name: str, wanted: Wanted, seed: int
) -> tuple[OwnBatches, bool, int | None]:
    """The batches that `name` in a file is or gives, whether they have labels, and the samples.

    Raises:
        InputError: The code raises, gives no batches, or batches that do not fit the input.
    """
    found = _Chance(seed).run(lambda: attribute(from_file(path), name, spec), spec)
    batches = OwnBatches(spec, found, seed)
    first = next(iter(batches))
    _check_rank(first, wanted, spec)
    own = replace(batches, first=_fingerprint(first))
    return own, _has_labels(first, wanted), _known_length(found)


@dataclass(frozen=True)
class OwnBatches:
    """A user's batches: every pass starts from the same random state and must be the same.

    part: 0 for all batches, 1 for every other one until there are `samples`, 2 for the others.
    first: the fingerprint of the first batch of all.
    """

    spec: str
    found: Any
    seed: int
    part: int = 0
    samples: int = 0
    first: tuple[Any, ...] | None = None

    def __iter__(self) -> Iterator[Any]:
        given = taken = 0
        for batch in self._all():
            mine = given % 2 == 0 and taken < self.samples
            given += 1
            taken += _length(batch) if mine else 0
            if self.part == 0 or mine == (self.part == 1):
                yield batch
            if self.part == 1 and taken >= self.samples:
                return
        if given < self.part:
            raise InputError(
                f"{self.spec} gives {given} batch, and calibration and evaluation need different "
                "ones",
                hint="give smaller batches",
            )

    def split(self, samples: int) -> tuple[OwnBatches, OwnBatches]:
        """Every other batch until there are `samples` samples, and the other batches."""
        first, second = (
            replace(self, part=1, samples=samples),
            replace(self, part=2, samples=samples),
        )
        next(iter(second))
        return first, second

    def _all(self) -> Iterator[Any]:
        chance = _Chance(self.seed)
        iterator = chance.run(self._started, self.spec)
        number = 0
        while True:
            batch = chance.run(lambda: next(iterator, _END), f"batch {number} of {self.spec}")
            if batch is _END:
                break
            batch = _plain(batch, number, self.spec)
            if number == 0 and self.first not in (None, _fingerprint(batch)):
                raise InputError(
                    f"{self.spec} gives other batches each time",
                    hint="fix the order: shuffle=False, or make the loader inside a function",
                )
            yield batch
            number += 1
        if number == 0:
            again = self.first is not None
            raise InputError(
                f"{self.spec} can be read only once" if again else f"{self.spec} gives no batch",
                hint="name a function that gives the batches anew",
            )

    def _started(self) -> Iterator[Any]:
        batches = self.found
        if isinstance(batches, type) or (callable(batches) and not hasattr(batches, "__iter__")):
            batches = batches()
        if _one_batch(batches):
            return iter([batches])
        iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if not iterable or isinstance(batches, str):
            raise InputError(
                f"{self.spec} gives a {type(batches).__name__}, not batches",
                hint="name a data loader, a list of batches, or a function that gives one",
            )
        return iter(batches)


class _Chance:
    """Runs a user's code with random states of its own, which go on from call to call."""

    def __init__(self, seed: int) -> None:
        outside = self._states()
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        self.own = self._states()
        self._set(outside)

    def run(self, function: Callable[[], Any], doing: str) -> Any:
        outside = self._states()
        self._set(self.own)
        try:
            return function()
        except SecateurError:
            raise
        except Exception as error:
            raise InputError(f"{doing} failed: {said(error)}") from error
        finally:
            self.own = self._states()
            self._set(outside)

    @staticmethod
    def _states() -> tuple[Any, ...]:
        return torch.random.get_rng_state(), random.getstate(), np.random.get_state()

    @staticmethod
    def _set(states: tuple[Any, ...]) -> None:
        torch.random.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


_END = object()


def _one_batch(value: Any) -> bool:
    """Whether this is a batch, not batches: a tensor, a dict, or a tuple of tensors."""
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(item, (Tensor, np.ndarray)) for item in value)
    return isinstance(value, (Tensor, np.ndarray, Mapping))


def _plain(batch: Any, number: int, spec: str) -> Any:
    """The batch with NumPy arrays as tensors; its values must be finite."""
    batch = _tensors(batch)
    found = list(tensors_in(batch))
    if not found:
        raise InputError(
            f"batch {number} of {spec} is a {type(batch).__name__} without tensors",
            hint="a batch is inputs, (inputs, labels), or a dict of tensors",
        )
    for tensor in found:
        check_finite(tensor, f"batch {number} of {spec}")
    return batch


def _tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_tensors(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _tensors(item) for key, item in value.items()}
    return value


def _fingerprint(batch: Any) -> tuple[Any, ...]:
    """Shapes and sums: enough to see that an order changed."""
    return tuple(
        (tuple(tensor.shape), float(tensor.detach().double().sum())) for tensor in tensors_in(batch)
    )


def _check_rank(batch: Any, wanted: Wanted, spec: str) -> None:
    """The first input has as many dimensions as the example: samples are no batches."""
    name = next(iter(wanted.tensors))
    if wanted.named and not (isinstance(batch, Mapping) and name in batch):
        raise InputError(
            f"batches of {spec} have no input {name}", hint="give dicts with the names of --input"
        )
    found = batch[name] if wanted.named else next(tensors_in(batch))
    if found.dim() != wanted.first.dim():
        raise InputError(
            f"batches of {spec} have the shape {tuple(found.shape)}, and the input "
            f"{tuple(wanted.first.shape)}",
            hint="give batches, not samples: wrap a dataset in a DataLoader",
        )


def _has_labels(batch: Any, wanted: Wanted) -> bool:
    if isinstance(batch, Mapping):
        return any(str(k).lower() in LABEL_KEYS for k in batch if k not in wanted.tensors)
    return isinstance(batch, (tuple, list)) and len(batch) > len(wanted.tensors)


def _length(batch: Any) -> int:
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def _known_length(found: Any) -> int | None:
    """The samples of a data loader or a list of batches that is there already."""
    if isinstance(found, torch.utils.data.DataLoader) and found.batch_size is not None:
        try:
            count = len(found.sampler)  # type: ignore[arg-type]
        except TypeError:
            return None
        return count - count % found.batch_size if found.drop_last else count
    if isinstance(found, (list, tuple)):
        return sum(_length(_tensors(batch)) for batch in found)
    return None


__all__ = ["OwnBatches", "own_batches"]
