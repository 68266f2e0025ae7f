"""Whatever users call data becomes a few calls: some to learn from, some to decide with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from secateur.core.batches import Call, tensors_in
from secateur.core.errors import InputError
from secateur.measure.calibration import batch_call, calibration, take

X = torch.arange(60.0).reshape(20, 3)
Y = torch.arange(20)


class Two(nn.Module):
    """A forward that cannot do without two arguments."""

    def forward(self, x: Tensor, lengths: Tensor, scale: float = 1.0) -> Tensor:
        return x.sum(1) / lengths * scale


class Named(nn.Module):
    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return input_ids if mask is None else input_ids * mask


class Everything(nn.Module):
    def forward(self, **inputs: Tensor) -> Tensor:
        return inputs["a"]


class Listed(nn.Module):
    """Takes a list of sequences."""

    def forward(self, items: list[Tensor]) -> list[Tensor]:
        return [item * 2 for item in items]


def rows(calls: tuple[Call, ...]) -> list[list[float]]:
    """The rows of the first input of all calls."""
    return [row for call in calls for row in next(tensors_in(call.args or call.kwargs)).tolist()]


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (X, False),
        ((X, Y), True),
        ([X], False),
        ([X[:7], X[7:]], False),
        ([(X, Y)], True),
        ([[X[:5], Y[:5]], [X[5:], Y[5:]]], True),
        (iter([(X[:9], Y[:9]), (X[9:], Y[9:])]), True),
        (DataLoader(TensorDataset(X, Y), batch_size=6), True),
        ([{"input": X}], False),
        ({"input": X}, False),
    ],
    ids=[
        "tensor", "pair", "tensors", "two tensors", "one pair", "lists", "iterator", "loader",
        "mappings", "mapping",
    ],
)  # fmt: skip
def test_all_forms_of_data_give_all_samples_once(data: Any, labels: bool) -> None:
    found = calibration(nn.Linear(3, 2), take(data), chunk=4)
    assert found.samples == 20
    assert sorted(rows(found.calls)) == X.tolist()
    assert all(len(call.args) + len(call.kwargs) == 1 for call in found.calls)


def test_a_fifth_is_held_out_and_never_learned_from() -> None:
    found = calibration(nn.Linear(3, 2), [X], chunk=2)
    assert (len(found.fit), len(found.held)) == (8, 2)
    assert not [row for row in rows(found.held) if row in rows(found.fit)]
    assert [tuple(call.args[0].shape) for call in found.calls] == [(2, 3)] * 10


def test_one_batch_is_split_so_that_a_part_can_be_held_out() -> None:
    found = calibration(nn.Linear(3, 2), [X])
    assert len(found.held) == 1 and len(found.held[0].args[0]) == 4


def test_batches_are_split_no_further_than_a_fifth_needs() -> None:
    sizes = [len(call.args[0]) for call in calibration(nn.Linear(3, 2), [X[:6]] * 8).calls]
    assert sizes == [6] * 8
    found = calibration(nn.Linear(3, 2), [torch.zeros(600, 3)], samples=512)
    assert [len(call.args[0]) for call in found.held] == [100]
    assert sum(len(call.args[0]) for call in found.calls) == 512


def test_large_batches_are_split_into_equal_parts_and_a_fifth_of_them_is_held_out() -> None:
    found = calibration(nn.Linear(3, 2), [torch.zeros(128, 3)] * 4)
    assert [len(call.args[0]) for call in found.fit] == [64] * 6
    assert [len(call.args[0]) for call in found.held] == [64] * 2


def test_long_sequences_of_tokens_come_few_at_a_time() -> None:
    for length, chunk in ((16, 103), (2048, 8), (20_000, 1)):
        tokens = torch.zeros(512, length, dtype=torch.int64)
        found = calibration(nn.Embedding(2, 2), [tokens])
        assert max(len(call.args[0]) for call in found.calls) == chunk


def test_batches_of_one_sample_are_put_together() -> None:
    found = calibration(nn.Linear(3, 2), [(row[None], 0) for row in X.unbind()], chunk=2)
    assert [len(call.args[0]) for call in found.calls] == [2] * 10
    assert sorted(rows(found.calls)) == X.tolist()
    data = [torch.zeros(1, length, 3) for length in (4, 4, 4, 5, 5, 4)] + [torch.zeros(3, 5, 3)]
    found = calibration(nn.Linear(3, 2), data, chunk=2)
    assert sorted(tuple(call.args[0].shape[:2]) for call in found.calls) == [
        (1, 4), (1, 4), (1, 5), (2, 4), (2, 5), (2, 5)
    ]  # fmt: skip


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_of_few_samples_all_decide(samples: int) -> None:
    found = calibration(nn.Linear(3, 2), [X[:samples]])
    assert found.samples == samples and found.held is found.fit
    assert found.calls is found.fit
    assert rows(found.calls) == X[:samples].tolist()


def test_no_more_samples_than_wanted() -> None:
    found = calibration(nn.Linear(3, 2), [X[:7], X[7:]], samples=10)
    assert found.samples == 10
    assert sorted(rows(found.calls)) == X[:10].tolist()


def test_batches_that_hold_nothing_are_passed_over() -> None:
    found = calibration(nn.Linear(3, 2), [X[:0], X, X[:0]])
    assert found.samples == 20


def test_a_forward_with_two_required_arguments_gets_two() -> None:
    lengths = torch.full((20,), 3)
    found = calibration(Two(), [(X, lengths, Y)], chunk=4)
    assert {len(call.args) for call in found.calls} == {2}
    for call in found.calls:
        assert call.run(Two()).shape == (len(call.args[0]),)
    assert len(batch_call(nn.Linear(3, 2), (X, lengths, Y)).args) == 1


def test_of_a_mapping_the_forward_gets_what_it_has_arguments_for() -> None:
    batch = {"input_ids": X, "labels": Y}
    assert set(batch_call(Named(), batch).kwargs) == {"input_ids"}
    assert set(batch_call(Everything(), batch).kwargs) == {"input_ids", "labels"}
    found = calibration(Named(), [{"input_ids": X, "mask": X > 3, "labels": Y}], chunk=4)
    assert {tuple(call.kwargs["mask"].shape) for call in found.calls} == {(4, 3)}


def test_tuple_inputs_stay_together() -> None:
    found = calibration(Listed(), [([X[:4], X[:7]], Y[:2]), ([X[:3], X[:3]], Y[:2])])
    assert [[len(t) for t in call.args[0]] for call in found.calls] == [[4, 7], [3, 3]]
    assert found.samples == 2
    lengths = torch.full((20,), 3)
    assert batch_call(Two(), ((X, lengths), Y)).run(Two()).shape == (20,)
    assert batch_call(Two(), [[X, lengths], Y]).run(Two()).shape == (20,)


def test_recurrent_states_among_the_inputs_are_not_split() -> None:
    """Their first dimension is that of the layers, whatever it is equal to."""
    lstm = nn.LSTM(3, 4, 2)
    states = (torch.zeros(2, 20, 4), torch.zeros(2, 20, 4))
    call = Call((torch.zeros(2, 20, 3), states), {})
    found = calibration(lstm, [call])
    assert len(found.calls) == 1
    assert found.calls[0].run(lstm)[0].shape == (2, 20, 4)


def test_sequences_of_different_lengths() -> None:
    data = [X[None, :length] for length in (4, 9, 5, 6, 7, 3)]  # one sample each
    found = calibration(nn.Linear(3, 2), data)
    assert [call.args[0].shape[1] for call in found.fit] == [4, 9, 5, 6, 3]
    assert [call.args[0].shape[1] for call in found.held] == [7]


def test_a_generator_is_read_once_and_no_further_than_needed() -> None:
    read: list[int] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(5):
            read.append(k)
            yield X[4 * k : 4 * k + 4], Y[4 * k : 4 * k + 4]

    kept = take(batches(), samples=10)
    assert read == [0, 1, 2] and len(kept) == 3
    for _ in range(2):  # what was taken can be used again
        assert calibration(nn.Linear(3, 2), kept, samples=10).samples == 10


def test_two_inputs_of_equal_shape_are_batches_not_a_pair() -> None:
    assert len(take((X, X + 1))) == 2
    assert len(take((X, Y))) == 1


def test_inputs_go_to_the_models_device() -> None:
    found = calibration(nn.Embedding(60, 2, device="meta"), [X.long()])
    assert found.calls[0].args[0].is_meta


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no sample"),
        ([X[:0]], "no sample"),
        ([X, X * float("nan")], "batch 1 of the data holds values that are not finite"),
        ([X / 0], "batch 0 of the data"),
    ],
)
def test_data_that_cannot_be_used(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibration(nn.Linear(3, 2), data)


def test_values_that_are_not_finite_are_errors_only_where_they_are_used() -> None:
    found = calibration(nn.Linear(3, 2), [(X, Y / 0)])
    assert found.samples == 20


@pytest.mark.parametrize(
    ("data", "samples", "message"),
    [
        ([], 5, "the data loader is empty"),
        (3, 5, "data is batches, not a int"),
        (X, 0, "samples=0: expected an integer of at least 1"),
    ],
)
def test_what_is_no_data(data: Any, samples: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(data, samples)
