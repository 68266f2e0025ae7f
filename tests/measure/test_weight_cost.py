"""Products by weights that are there."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.core.batches import Call
from secateur.measure.weight_cost import weight_amounts


def test_dense_products_are_those_of_torch_s_own_counter() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
        nn.Flatten(), nn.Linear(4 * 49, 3),
    )  # fmt: skip
    x = torch.randn(2, 4, 8, 8)
    counter = FlopCounterMode(display=False)
    with counter:
        model(x)
    found = weight_amounts(model, Call((x,), {}), {})
    assert found.macs == counter.get_total_flops() // 2
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.bytes == 4 * found.params


def test_zeros_are_not_counted() -> None:
    model, x = nn.Conv1d(2, 3, 2), torch.randn(5, 2, 4)
    mask = torch.zeros(3, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    found = weight_amounts(model, Call((x,), {}), {"weight": mask})
    assert found.macs == 5 * 3 * 2 and found.params == 2 + 3


def test_shared_weights_count_once_as_parameters_and_at_every_use() -> None:
    first = nn.Linear(3, 3, bias=False)
    model = nn.Sequential(first, first)
    found = weight_amounts(model, Call((torch.ones(1, 3),), {}), {})
    assert found.params == 9 and found.macs == 18
