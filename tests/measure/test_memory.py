"""Peak memory against sums by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from secateur.measure.memory import Peak, peak_memory

F32 = 4


class Residual(nn.Module):
    """The input of a block lives until the sum."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


def weights(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def test_a_chain_holds_two_neighbours_and_the_input() -> None:
    sizes = [3, 50, 20, 70, 2]
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(sizes)]).train()
    n = 7
    pairs = [a + b for a, b in pairwise(sizes[1:])]
    expected = F32 * n * (sizes[0] + max(pairs))
    assert peak_memory(model, torch.zeros(n, 3)) == Peak(weights(model), expected)
    assert model.training


def test_a_residual_holds_its_input() -> None:
    model = Residual(10, 30)
    found = peak_memory(model, torch.zeros(2, 10))
    assert found.activations == F32 * 2 * (10 + 30 + 10)
    assert found.bytes == weights(model) + found.activations


def test_in_place_operations_and_views_take_nothing() -> None:
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    thrifty = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Flatten(0))
    x = torch.zeros(3, 4)
    assert peak_memory(plain, x).activations == F32 * 3 * (4 + 8 + 8)
    assert peak_memory(thrifty, x).activations == F32 * 3 * (4 + 8)


def test_what_is_freed_before_does_not_count() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            big = torch.cat([x] * 100)
            small = big.sum()
            del big
            return torch.cat([x] * 50) + small

    n = 6
    assert peak_memory(Sum(), torch.zeros(n)).activations == F32 * (n + 100 * n + 1)


def test_a_storage_counts_whole_and_once() -> None:
    model = nn.Identity()
    base = torch.zeros(100)
    assert peak_memory(model, base[:10]).activations in (0, 400)

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:2] + x[5:7]

    assert peak_memory(Twice(), base).activations == 400 + 8


def test_convolutions_and_buffers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))
    n, image = 2, 8 * 8
    found = peak_memory(model, torch.zeros(n, 3, 8, 8))
    assert found.weights == weights(model)
    assert found.activations >= F32 * n * image * (3 + 6 + 6)
    assert found.activations <= F32 * (n * image * (3 + 6 + 6) + 4 * 6)


def test_shared_weights_count_once_and_half_precision_half() -> None:
    one = nn.Linear(5, 5, bias=False)
    assert peak_memory(nn.Sequential(one, one), torch.zeros(1, 5)).weights == F32 * 25
    half = nn.Sequential(one, nn.ReLU()).bfloat16()
    found = peak_memory(half, torch.zeros(2, 5, dtype=torch.bfloat16))
    assert found == Peak(50, 2 * (10 + 10 + 10))


def test_recurrent_and_attention_layers_run() -> None:
    assert peak_memory(nn.LSTM(3, 4), torch.zeros(5, 2, 3)).activations > 0
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert peak_memory(layer, torch.zeros(2, 5, 8)).activations > 2 * F32 * 2 * 5 * 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_as_on_cpu() -> None:
    model, x = Residual(10, 30), torch.zeros(2, 10)
    assert peak_memory(model, x) == peak_memory(model.cuda(), x)
