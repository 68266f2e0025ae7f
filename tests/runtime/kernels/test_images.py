from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("llvmlite", reason="kernels need llvmlite")

from secateur.runtime.kernels import images
from secateur.runtime.machine import parallel


def run(address: int, x: torch.Tensor, y: torch.Tensor, geometry: list[int]) -> None:
    numbers = np.array(geometry, np.int64)
    task = [x.data_ptr(), y.data_ptr(), numbers.ctypes.data, 0, x.shape[0], 0, 0]
    parallel(address, np.array([task], np.int64))


@pytest.mark.parametrize("wide", [4, 5, 7, 8, 11, 16, 28])
@pytest.mark.parametrize("across", [1, 2])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("high", [1, 6, 7])
def test_split(wide: int, across: int, down: int, high: int) -> None:
    rows, row = (high + 1) // 2, wide + 3
    x, y = torch.randn(3, high, 2 * wide), torch.full((3, 2, 2, rows, row), -1.0)
    pitch = rows * row
    numbers = [2 * wide * high, 2 * wide, 4 * pitch, row, high, wide, pitch, 2 * pitch]
    run(images.split(wide, across, down), x, y, numbers)
    expected = torch.full_like(y, -1)
    for a in range(down):
        for b in range(across):
            part = x[:, a::2, b::2]
            expected[:, a, b, : part.shape[1], :wide] = part
    assert torch.equal(y, expected)


@pytest.mark.parametrize("wide", [4, 7, 8, 13, 16, 28])
@pytest.mark.parametrize("high", [4, 5])
def test_pool(wide: int, high: int) -> None:
    x = torch.randn(3, high, 2 * wide)
    x[1, 2, 3] = float("nan")
    wanted = F.max_pool2d(x, 3, 2, 1)
    y = torch.full((3, wanted.shape[1], wide + 2), -1.0)
    numbers = [
        high * 2 * wide, 2 * wide, high - 1, wanted.shape[1] * (wide + 2), wide + 2,
        wanted.shape[1], wide,
    ]  # fmt: skip
    run(images.pool(wide), x, y, numbers)
    assert torch.equal(y[..., :wide].isnan(), wanted.isnan())
    assert torch.equal(y[..., :wide].nan_to_num(9), wanted.nan_to_num(9))
    assert (y[..., wide:] == -1).all()


@pytest.mark.parametrize("count", [1, 7, 49, 200])
def test_mean(count: int) -> None:
    x, y = torch.randn(5, count + 3), torch.full((6,), -1.0)
    x[3, count - 1] = float("inf")
    share = int(np.float32(1 / 40).view(np.uint32))
    run(images.mean(), x, y, [count + 3, count, share])
    assert torch.allclose(y[:5], x[:, :count].sum(1) / 40, atol=1e-6)
    assert y[3] == float("inf") and y[5] == -1


def test_rows_that_are_too_short() -> None:
    assert images.lanes(3) == 0
