"""Which units are dead, and what constants give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.api.dead import constants, dead_outputs, fold, silent
from secateur.core.batches import Call
from secateur.core.site import Site
from secateur.graph import analyze
from secateur.units import Channel, sites


def site(model: nn.Module, x: Tensor, name: str) -> Site:
    found = sites(analyze(model, x), [Channel()], None, model)
    return next(s for s in found if s.name == name)


def clear(weight: Tensor, where: Any) -> None:
    with torch.no_grad():
        weight[where] = 0


def test_nothing_reads_and_nothing_feeds() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 9, 9)
    clear(model[0].weight, [1, 4])
    clear(model[2].weight, (slice(None), 2))
    clear(model[2].weight, (slice(None), 3, 0))  # a part of its taps only
    place = site(model, x, "0")
    assert silent(model, place).tolist() == [1, 4]
    assert dead_outputs(model, place).tolist() == [2]


def test_constants_are_seen_where_they_are_read() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)).eval()
    clear(model[0].weight, 3)
    found = constants(model, Call((torch.randn(9, 3),), {}))
    reader = found["2.weight"]
    assert (reader.high == reader.low).tolist() == [False, False, False, True, False]
    assert torch.isclose(reader.low[3], torch.sigmoid(model[0].bias[3]))


def test_a_constant_is_folded_into_a_bias() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)).eval()
    x = torch.randn(9, 3)
    clear(model[0].weight, 3)
    place, before = site(model, x, "0"), model(x)
    found = constants(model, Call((x,), {}))
    assert fold(model, place, silent(model, place), found) == 1
    assert torch.allclose(model(x), before, atol=1e-6)
    assert dead_outputs(model, place).tolist() == [3]
    assert fold(model, place, silent(model, place), found) == 0  # it is done


def test_a_constant_is_folded_into_the_norm_behind_a_layer_without_bias() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 4, 3, bias=False), nn.BatchNorm2d(4),
    ).eval()  # fmt: skip
    x = torch.randn(4, 3, 9, 9)
    clear(model[0].weight, 3)
    place, before = site(model, x, "0"), model(x)
    assert fold(model, place, silent(model, place), constants(model, Call((x,), {}))) == 1
    assert torch.allclose(model(x), before, atol=1e-6)


def test_what_padding_breaks_stays() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 4, 3, padding=1), nn.Flatten()
    ).eval()
    x = torch.randn(2, 3, 9, 9)
    clear(model[0].weight, 3)
    place = site(model, x, "0")
    weight = model[2].weight.clone()
    assert fold(model, place, silent(model, place), constants(model, Call((x,), {}))) == 0
    assert torch.equal(model[2].weight, weight)


def test_where_nothing_takes_a_bias_a_constant_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2, bias=False)).eval()
    x = torch.randn(9, 3)
    clear(model[0].weight, 3)
    place = site(model, x, "0")
    assert fold(model, place, silent(model, place), constants(model, Call((x,), {}))) == 0
