"""What is trained on and what is held out: never the same samples, and every sample once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from secateur.core.errors import InputError
from secateur.recover.feed import Feed, feed


def seen(found: Feed, epochs: int = 1, **share: int) -> list[int]:
    parts = found.batches(0, epochs * found.length, **share)
    return [int(value) for _, batch in parts for value in first(batch)]


def held(found: Feed) -> list[int]:
    return [int(value) for batch in found.held for value in first(batch)]


def first(batch: Any) -> Tensor:
    return batch["x"] if isinstance(batch, dict) else batch[0]


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count), torch.arange(count) % 3)


class Stream:
    """Batches in their own order, with or without a length."""

    def __init__(self, count: int, shuffled: bool = False) -> None:
        self.count, self.shuffled, self.passes = count, shuffled, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        order = torch.arange(self.count)
        order = order.roll(self.passes) if self.shuffled else order
        for k in order:
            yield (torch.arange(2) + 2 * k, torch.zeros(2))


class Endless(IterableDataset):
    """A data set without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.tensor(k), torch.tensor(0)) for k in range(60)])


def sources() -> dict[str, Any]:
    x = torch.arange(60)[:, None]
    return {
        "pair": (x, torch.zeros(60)),
        "mapping": {"x": x, "labels": x[:, 0] % 2},
        "few batches": [(part, part % 2) for part in x.split(15)],
        "many batches": [(part, part % 2) for part in x.split(4)],
        "loader": DataLoader(numbers(60), batch_size=8),
        "shuffled loader": DataLoader(numbers(60), batch_size=8, shuffle=True),
        "sampler": DataLoader(numbers(60), 10, sampler=list(range(60))),
        "stream": Stream(30),
        "iterable": DataLoader(Endless(), batch_size=3),
    }


@pytest.mark.parametrize("kind", sources())
def test_every_sample_is_trained_on_or_held_out(kind: str) -> None:
    found = feed(sources()[kind], seed=3)
    assert sorted(seen(found) + held(found)) == list(range(60))
    assert 4 <= len(held(found)) <= 12 and not set(seen(found, 3)) & set(held(found))
    assert held(found) == held(found) and found.notes == ()


@pytest.mark.parametrize("kind", sources())
def test_processes_share_an_epoch(kind: str) -> None:
    found = feed(sources()[kind], seed=3)
    whole = list(found.batches(0, 2 * found.length))
    for rank in range(2):
        part = list(found.batches(0, 2 * found.length, rank, 2))
        assert len(part) == len(whole[rank::2])
        for (name, batch), (other, same) in zip(part, whole[rank::2], strict=True):
            assert name == other and torch.equal(first(batch), first(same))


@pytest.mark.parametrize("kind", sources())
def test_any_batch_can_be_the_first(kind: str) -> None:
    found = feed(sources()[kind], seed=3)
    whole = [first(batch) for _, batch in found.batches(0, 2 * found.length)]
    later = [first(batch) for _, batch in found.batches(found.length + 1, 2 * found.length)]
    assert len(later) == found.length - 1
    assert all(map(torch.equal, later, whole[found.length + 1 :]))


def test_order_is_drawn_anew_in_every_epoch_by_the_seed() -> None:
    data = sources()["many batches"]
    runs = [[name for name, _ in feed(data, seed=s).batches(0, 26)] for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    length = feed(data).length
    assert runs[0][:length] != runs[0][length : 2 * length]


def test_names_are_those_of_batches_that_repeat() -> None:
    def names(kind: str) -> set[Any]:
        found = feed(sources()[kind])
        return {name for name, _ in found.batches(0, 2 * found.length)}

    assert names("many batches") == set(range(14)) and names("loader") == set(range(7))
    assert names("shuffled loader") == {None} == names("stream")


def test_validation_is_held_out_instead() -> None:
    for kind, data in sources().items():
        found = feed(data, validation=[(torch.tensor([100, 101]), torch.zeros(2))])
        assert held(found) == [100, 101] and len(seen(found)) == 60, kind


def test_one_batch_becomes_many() -> None:
    found = feed((torch.zeros(200, 3), torch.zeros(200)))
    assert [len(batch[0]) for _, batch in found.batches(0, 3)] and found.length == 3


def test_a_loader_that_shuffles_itself_is_told_of() -> None:
    found = feed(Stream(30, shuffled=True))
    assert "another order each time" in found.notes[0]
    sampler = WeightedRandomSampler([1.0] * 60, 60)
    found = feed(DataLoader(numbers(60), 4, sampler=sampler))
    assert "another order each time" in found.notes[0]


def test_a_batch_of_one_sample_is_left_out_at_the_end() -> None:
    found = feed(DataLoader(numbers(28), batch_size=8))  # 26 are left: 8, 8, 8, 2
    assert found.length == 4
    found = feed(DataLoader(numbers(27), batch_size=8), seed=1)  # 25 are left: 8, 8, 8, 1
    assert found.length == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([torch.zeros(1, 3)], "too little data"),
        (DataLoader(numbers(1)), "too little data"),
        (Stream(1), "too little data"),
        ((x for x in [torch.zeros(4)]), "can be read only once"),
        (3, "not a int"),
    ],
)
def test_what_cannot_be_trained_on(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        feed(data)


def test_a_stream_that_runs_dry() -> None:
    class Dry(Stream):
        def __iter__(self) -> Iterator[Any]:
            return iter(()) if self.passes > 3 else super().__iter__()

    found = feed(Dry(5))
    with pytest.raises(InputError, match="fewer batches"):
        for _ in range(4):
            seen(found)
