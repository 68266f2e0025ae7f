"""The twin without memory."""

from __future__ import annotations

import torch
from torch import nn

from secateur.ship.twin import meta_twin


def test_a_twin_has_shapes_ties_and_modes_but_no_memory() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.LSTM(3, 4))
    model[2].weight = model[0].weight
    model[1].eval()
    model[0].mask = torch.ones(3)  # type: ignore[assignment]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin = meta_twin(model)
    assert twin[2].weight is twin[0].weight  # type: ignore[index]
    assert not twin[1].training  # type: ignore[index]
    assert twin[0].mask.is_meta  # type: ignore[index]
    assert all(tensor.is_meta for tensor in twin.state_dict().values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert twin.state_dict()[name].shape == tensor.shape
        assert twin.state_dict()[name].dtype == tensor.dtype


def test_memory_format_is_kept() -> None:
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    assert meta_twin(model).weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator, union-attr]
