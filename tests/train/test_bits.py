"""Masks as bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.train.bits import cells, pack, unpack


@given(st.lists(st.integers(0, 5), min_size=0, max_size=3), st.integers(0, 999))
def test_bits_round_trip(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack(mask)
    assert packed.numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack(packed, shape).view(torch.bool), mask)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 4097])
def test_bits_are_those_of_numpy(size: int) -> None:
    mask = torch.rand(size) < 0.5
    assert np.array_equal(pack(mask), np.packbits(mask.numpy(), bitorder="little"))
    every = torch.arange(256, dtype=torch.uint8)
    assert np.array_equal(cells(every), np.unpackbits(every.numpy(), bitorder="little"))


def test_other_orders_of_memory() -> None:
    mask = torch.rand(6, 5) < 0.5
    assert torch.equal(unpack(pack(mask.T), (5, 6)).view(torch.bool), mask.T)
