"""Weights as matrices: outputs times inputs, as the layer itself computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.core.matrix import Matrix


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        (nn.Linear(6, 4), Matrix()),
        (nn.Conv2d(6, 4, (3, 2)), Matrix("conv")),
        (nn.Conv1d(6, 4, 3, groups=2), Matrix("conv", 2)),
        (nn.ConvTranspose2d(6, 4, 3), Matrix("transposed")),
        (nn.ConvTranspose1d(6, 4, 3, groups=2), Matrix("transposed", 2)),
    ],
)
def test_there_and_back(layer: nn.Module, form: Matrix) -> None:
    weight = layer.get_parameter("weight").detach()
    matrix = form.of(weight)
    assert matrix.shape[0] == 4
    assert torch.equal(form.back(matrix, tuple(weight.shape)), weight)
    assert form.taps(tuple(weight.shape)) == weight[0, 0].numel()


def test_rows_are_outputs() -> None:
    """A row of zeros makes the output its bias."""
    for layer, form, x in (
        (nn.Conv1d(6, 4, 3, groups=2), Matrix("conv", 2), torch.randn(1, 6, 5)),
        (nn.ConvTranspose1d(6, 4, 3, groups=2), Matrix("transposed", 2), torch.randn(1, 6, 5)),
    ):
        weight = layer.weight.detach()
        matrix = form.of(weight).clone()
        matrix[1] = 0
        with torch.no_grad():
            layer.weight.copy_(form.back(matrix, tuple(weight.shape)))
            y = layer(x)
        assert layer.bias is not None
        torch.testing.assert_close(y[0, 1], layer.bias[1].expand_as(y[0, 1]))
        assert not torch.allclose(y[0, 0], layer.bias[0].expand_as(y[0, 0]))


def test_columns_are_channels_by_taps() -> None:
    weight = torch.arange(24.0).reshape(2, 3, 4)
    assert Matrix("conv").of(weight)[1, 2 * 4 + 1] == weight[1, 2, 1]
    assert Matrix("transposed").of(weight)[2, 1 * 4 + 3] == weight[1, 2, 3]
