from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from secateur.engine.layer import ACTIVATIONS, Dense, Layer, pack


@pytest.mark.parametrize("shape", [(3,), (5, 7), (2, 3, 1, 5), (0, 4)])
def test_packed_and_back(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape) * (torch.rand(shape) < 0.3)
    packed = pack(tensor)
    assert torch.equal(packed.dense(), tensor)
    assert packed.nnz == int((tensor != 0).sum())


def test_not_a_number_is_kept() -> None:
    assert pack(torch.tensor([float("nan"), 0.0, -0.0])).nnz == 1


def test_a_tenth_takes_an_eighth() -> None:
    tensor = torch.randn(1000, 100) * (torch.rand(1000, 100) < 0.1)
    assert pack(tensor).bytes < 0.14 * 4 * tensor.numel()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense(activation: str) -> None:
    weight, bias = torch.randn(4, 3, 1, 3), torch.randn(4)
    layer = Layer(
        "c", pack(weight), bias.numpy(), 1, (1, 2), (0, 1), (1, 1), 1, activation, residual=True
    )
    x, r = torch.randn(2, 3, 9), torch.randn(2, 4, 5)
    wanted = ACTIVATIONS[activation](F.conv1d(x, weight[:, :, 0], bias, 2, 1) + r)
    assert torch.allclose(Dense(layer)(x, r), wanted, atol=1e-6)
    assert layer.output_size((1, 9)) == (1, 5)


def test_names_for_people() -> None:
    kinds = [
        Layer("", pack(torch.ones(4, 1, 3, 3)), None, 2, groups=4).kind,
        Layer("", pack(torch.ones(4, 2, 1, 5)), None, 1, (1, 2)).kind,
    ]
    assert kinds == ["depthwise 3x3", "conv 5/2"]
