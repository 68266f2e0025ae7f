"""Where a layer stands in both networks, and what it is solved from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from repair_nets import Recurrent, shrink
from torch import nn

from secateur.core.batches import Call
from secateur.measure.linear import Parameters, Use
from secateur.recover.layer import Layer, Place
from secateur.recover.uses import uses

S = nn.Sequential


def place(model: nn.Module, x: Any, gone: Any, weight: str, part: int = 0) -> Place | None:
    cut = shrink(model, x, gone)
    call = [Call((x,), {})]
    slot = (weight, part)
    dense, small = uses(model, call)[slot], uses(cut.small, call)[slot]
    return Place.find(slot, dense, small.sample, cut.plan)


def test_a_consumer_lost_columns_and_a_producer_outputs() -> None:
    model = S(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, (1, 2)))
    x, gone = torch.randn(2, 3, 6, 6), {"0": [1]}
    producer, consumer = (place(model, x, gone, name) for name in ("0.weight", "2.weight"))
    assert producer is not None and consumer is not None
    assert producer.outputs.tolist() == [0, 2, 3] and not producer.lost
    assert consumer.columns.tolist() == [0, 1, 4, 5, 6, 7] and consumer.lost
    assert consumer.outputs.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bias", [True, False])
def test_groups_lose_columns_alike(bias: bool) -> None:
    model = S(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1, groups=2, bias=bias), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 1, groups=2, bias=bias),
    )  # fmt: skip
    x = torch.randn(2, 3, 4, 4)
    found = place(model, x, {"0.1": [2]}, "2.weight")
    assert found is not None and found.lost and found.columns.tolist() == [0, 1, 3]
    found = place(model, x, {"2.1": [0]}, "4.weight")
    assert found is not None and found.lost and found.columns.tolist() == [1, 2]
    assert found.outputs.tolist() == [0, 1, 2, 3]


def test_a_packed_recurrent_layer_keeps_the_same_units_in_every_gate() -> None:
    model = Recurrent(nn.LSTM, 3, 4)
    found = place(model, torch.randn(2, 5, 3), {"rnn.weight_ih_l0": [1]}, "rnn.weight_hh_l0")
    assert found is not None and found.lost and found.uses == 5
    assert found.outputs.tolist() == [0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15]
    assert found.columns.tolist() == [0, 2, 3]


def test_rows_are_an_equal_share_of_all_that_are_wanted() -> None:
    model, x = S(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(50, 3)
    cut = shrink(model, x, {"0": [1]})
    calls = [Call((x,), {})] * 4
    slot = ("2.weight", 0)
    dense, small = uses(model, calls)[slot], uses(cut.small, calls)[slot]
    found = Place.find(slot, dense, small.sample, cut.plan)
    assert found is not None and found.rows == 50
    for rows, wanted in ((40, 10), (4, 6), (10_000, 50)):  # 3 x 7 columns at least
        layer = Layer(found, Parameters(cut.small), rows, len(calls), 0)
        full = Use(dense.sample.spec, torch.randn(50, 8), torch.randn(50, 2))
        assert len(layer._index(full)) == wanted


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_of_many_uses_some_are_looked_at_evenly_and_out_of_step(every: int) -> None:
    model = S(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    found = place(model, torch.randn(2, 3), {"0": [1]}, "2.weight")
    assert found is not None
    layer = Layer(replace(found, uses=5), Parameters(model), 210, 2, 0, every=every)
    looked = torch.tensor([layer.looks(number) for number in range(420)])
    assert abs(int(looked.sum()) - 420 / every) <= 2
    for period in (2, 3, 4, 5, 7):  # a weight that is used by turns is seen in all its places
        turns = looked[: 420 // period * period].view(-1, period).float().mean(0)
        assert (turns - 1 / every).abs().max() < 0.07
    use = Use(found.dense, torch.randn(500, 8), torch.randn(500, 2))
    assert len(layer._index(use)) == min(500, 21 * every)  # 2 calls, 5 uses each
