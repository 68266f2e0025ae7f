"""Batches to train on, in an order that a seed decides, and those that are held out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from secateur.core.batches import map_tensors, tensors_in
from secateur.core.errors import InputError
from secateur.measure.calibration import take
from secateur.measure.gradients import pieces, samples

BATCH = 64
"""Samples of a batch where all the data is one tensor."""
PART = 10
"""One of so many samples is held out,"""
MOST_HELD = 5000
"""but no more than these samples,"""
MOST_HELD_BATCHES = 50
"""or these batches, where only batches are known."""


class Feed:
    """The batches of any number of epochs, numbered through, and what is held out of all of them.

    length: batches in an epoch. held: batches that are never trained on; they can be read again and
    again. notes: what weakens that.
    """

    length: int
    held: Iterable[Any]
    notes: tuple[str, ...] = ()

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int | None, Any]]:
        """The batches of these numbers that are this process's, each with what names it.

        The name is the same in every epoch where a batch holds the same samples, else None.
        """
        raise NotImplementedError


def feed(data: Any, *, validation: Iterable[Any] | None = None, seed: int = 0) -> Feed:
    """What to train on, from what users call data.

    Lists keep their batches; their order is drawn anew for every epoch, and a tenth of the batches
    is held out (of fewer than ten batches, a tenth of the samples of each). One tensor, or one pair
    of tensors, is cut into batches of 64. A `DataLoader` over a data set with a length is taken
    apart: a tenth of its samples (at most 5,000) is held out, and it shuffles if it did. Of other
    iterables every tenth batch is held out.

    validation: batches that are held out instead; then all the data is trained on.

    Example:
        >>> found = feed((torch.zeros(200, 3), torch.zeros(200)))
        >>> found.length, sorted(len(x) for _, (x, _) in found.batches(0, 3))
        (3, [52, 64, 64])
        >>> sum(len(x) for x, _ in found.held)
        20

    Raises:
        InputError: There is nothing to train on, or nothing that can be held out.
    """
    held = None if validation is None else _repeatable(validation, "validation=")
    if isinstance(data, DataLoader) and _can_be_rebuilt(data):
        return _Indexed(data, held, seed)
    if isinstance(data, (Tensor, Mapping, list, tuple)):
        return _Listed(take(data, sys.maxsize), held, seed)
    return _Streamed(_repeatable(data, "data="), held)


class _Listed(Feed):
    """Batches in memory."""

    def __init__(self, items: list[Any], held: Iterable[Any] | None, seed: int) -> None:
        self.seed = seed
        if held is None:
            items, held = _part(items, seed)
        if len(items) == 1:
            items = list(pieces(_plain(items[0]), BATCH))
            short = samples(items[-1]) == 1 and len(items) > 1  # too few for a batch norm
            items = items[:-1] if short else items
        self.items, self.held, self.length = items, held, len(items)

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int | None, Any]]:
        for epoch, places in _epochs(start, stop, self.length, rank, world):
            order = _order(self.length, self.seed, epoch)
            for place in places:
                yield order[place], self.items[order[place]]


class _Indexed(Feed):
    """A data loader, rebuilt over those of its samples that are trained on."""

    def __init__(self, loader: DataLoader[Any], held: Iterable[Any] | None, seed: int) -> None:
        self.loader, self.seed = loader, seed
        self.size = loader.batch_size or 1
        self.shuffled = isinstance(loader.sampler, RandomSampler)
        count = len(loader.dataset)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=_generator(seed, -1)).tolist()
        aside = 0 if held is not None else min(max(1, count // PART), MOST_HELD)
        if count - aside < 1:
            raise _too_little()
        self.trained = sorted(order[aside:])
        self.held = self._loader(_chunks(sorted(order[:aside]), self.size)) if aside else held  # type: ignore[assignment]
        self.length = len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[list[int]]:
        index = self.trained
        if self.shuffled:
            index = [index[k] for k in _order(len(index), self.seed, epoch)]
        chunks = _chunks(index, self.size)
        short = len(chunks[-1]) < (self.size if self.loader.drop_last else 2)
        return chunks[:-1] if short and len(chunks) > 1 else chunks

    def _loader(self, chunks: list[list[int]]) -> DataLoader[Any]:
        old = self.loader
        return DataLoader(
            old.dataset, batch_sampler=chunks, num_workers=old.num_workers,
            collate_fn=old.collate_fn, pin_memory=old.pin_memory, timeout=old.timeout,
            worker_init_fn=old.worker_init_fn, prefetch_factor=old.prefetch_factor,
            multiprocessing_context=old.multiprocessing_context,
        )  # fmt: skip

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int | None, Any]]:
        names: list[int | None] = []
        wanted: list[list[int]] = []
        for epoch, places in _epochs(start, stop, self.length, rank, world):
            chunks = self._epoch(epoch)
            wanted += [chunks[place] for place in places]
            names += [None if self.shuffled else place for place in places]
        yield from zip(names, self._loader(wanted), strict=True)


class _Streamed(Feed):
    """Any iterable that can be read again; its own order, and nothing known but that."""

    def __init__(self, data: Iterable[Any], held: Iterable[Any] | None) -> None:
        self.data, self.own = data, held is not None
        total = _count(data)
        self.every = min(PART, total)
        self.aside = 0 if self.own else min(total // self.every if total else 0, MOST_HELD_BATCHES)
        self.length = total - self.aside
        if self.length < 1:
            raise _too_little()
        if held is None:
            held = [batch for k, batch in enumerate(data) if self._is_held(k)]
            if not self._repeats():
                self.notes = (
                    "the data comes in another order each time, so that what is held out may have "
                    "been trained on (validation= gives batches of its own)",
                )
        self.held = held

    def _is_held(self, position: int) -> bool:
        number, last = divmod(position, self.every)
        return last == self.every - 1 and number < self.aside

    def _repeats(self) -> bool:
        first, second = (list(tensors_in(next(iter(self.data)))) for _ in range(2))
        return len(first) == len(second) and all(map(torch.equal, first, second))

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[int | None, Any]]:
        number = start
        skip = start % self.length
        while number < stop:
            found = (item for k, item in enumerate(self.data) if not self._is_held(k))
            before = number
            for batch in islice(found, skip, skip + stop - number):
                if (number - start) % world == rank:
                    yield None, batch
                number += 1
            if number == before:
                raise InputError(
                    "the data has fewer batches than when it was first read",
                    hint="give a loader that can be read again and again",
                )
            skip = 0


def _epochs(
    start: int, stop: int, length: int, rank: int, world: int
) -> Iterator[tuple[int, list[int]]]:
    """A process's share of the numbers from start to stop, as places in each epoch."""
    numbers = range(start + rank, stop, world)
    for epoch, found in groupby(numbers, lambda number: number // length):
        yield epoch, [number % length for number in found]


def _part(items: list[Any], seed: int) -> tuple[list[Any], list[Any]]:
    """A tenth of the batches, or of the samples of every batch where there are few."""
    if len(items) >= PART:
        held = set(_order(len(items), seed, -1)[: len(items) // PART])
        return (
            [item for k, item in enumerate(items) if k not in held],
            [items[k] for k in sorted(held)],
        )
    trained, aside = [], []
    for item in map(_plain, items):
        size = samples(item)
        if size is None or size < 2:
            trained.append(item)
            continue
        order = _order(size, seed, -1)
        middle = max(1, size // PART)
        for index, part in ((order[:middle], aside), (order[middle:], trained)):
            index = torch.tensor(sorted(index))
            part.append(map_tensors(item, lambda t, index=index: t[index.to(t.device)]))
    if not aside and len(trained) > 1:
        aside.append(trained.pop())
    if not aside:
        raise _too_little()
    return trained, aside


def _plain(batch: Any) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch


def _order(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=_generator(seed, epoch)).tolist()


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)


def _chunks(index: Sequence[int], size: int) -> list[list[int]]:
    return [list(index[k : k + size]) for k in range(0, len(index), size)]


def _can_be_rebuilt(loader: DataLoader[Any]) -> bool:
    """Whether its samples are known by number, and drawn in order or in any order."""
    sampler = loader.sampler
    drawn = isinstance(sampler, RandomSampler) and not sampler.replacement
    whole = drawn and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(loader.batch_sampler) is BatchSampler and (
        whole or type(sampler) is SequentialSampler
    )


def _repeatable(data: Any, name: str) -> Iterable[Any]:
    if isinstance(data, (Tensor, Mapping, list, tuple)):
        return take(data, sys.maxsize)
    if isinstance(data, Iterator):
        raise InputError(
            f"{name} is an iterator, which can be read only once",
            hint="training reads it in every epoch: give the loader itself, or a list",
        )
    if not isinstance(data, Iterable):
        raise InputError(f"{name} is batches, not a {type(data).__name__}")
    return data


def _count(data: Iterable[Any]) -> int:
    """How many batches there are; a loader's length may not be known before it was read."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return sum(1 for _ in data)


def _too_little() -> InputError:
    return InputError(
        "there is too little data to train on one part and to hold out another one",
        hint="give more samples, or batches that are held out as validation=",
    )
