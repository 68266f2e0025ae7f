"""Masks as bits: eight weights in a byte, packed and unpacked by PyTorch alone, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """A boolean tensor as bytes of eight.

    Example:
        >>> pack(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.uint8)
    """
    flat = mask.flatten()
    cells = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8).view(torch.uint8)
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (cells << places).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros and ones of a shape, in bytes: these multiply faster than booleans, which they view as.

    Example:
        >>> unpack(pack(torch.tensor([[True, False], [True, True]])), (2, 2)).tolist()
        [[1, 0], [1, 1]]
    """
    return cells(bits)[: prod(shape)].view(tuple(shape))


def cells(bits: Tensor) -> Tensor:
    """A byte for each bit, with those that fill the last byte."""
    return _table(bits.device).index_select(0, bits.int()).view(torch.uint8)


@cache
def _table(device: torch.device) -> Tensor:
    """For each byte the eight bytes that its bits are, as one number."""
    places = torch.arange(8, device=device)
    bits = (torch.arange(256, device=device)[:, None] >> places) & 1
    return bits.to(torch.uint8).view(torch.int64).squeeze(1)
