"""Tensors in a few bits a number, with one scale for each row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BITS = (2, 3, 4, 5, 6, 8, 10, 12)
"""Widths of codes, narrowest first."""
_WIDE = np.dtype(">u2")  # the bits of a code in their order, the last ones last
_SHRINKS = torch.tensor([1.004, *torch.linspace(1.0, 0.6, 9)])
"""How far below the largest value a scale may clip; the first does not, however it is rounded."""


def pack(tensor: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of a tensor; a row is what one index of the first dimension holds.

    The scale of a row is the one of a few, from its largest value down, with the smallest squared
    error. Returns codes as a vector of bytes without gaps, and bfloat16 scales `[rows]`.

    Example:
        >>> codes, scales = pack(torch.tensor([[7.0, -3.0], [0.0, 3.5]]), 4)
        >>> codes.dtype, len(codes)
        (torch.uint8, 2)
        >>> unpack(codes, scales, torch.Size([2, 2]), 4)
        tensor([[ 7.0000, -3.0000],
                [ 0.0000,  3.5000]])
    """
    rows = tensor.detach().float().reshape(len(tensor), -1)
    limit = 2 ** (bits - 1) - 1
    peak = rows.abs().amax(1) / limit
    best, scales = torch.full_like(peak, float("inf")), torch.zeros_like(peak)
    for shrink in _SHRINKS.tolist():
        scale = (shrink * peak).bfloat16().float()
        error = (rows - _codes(rows, scale, limit) * scale[:, None]).square().sum(1)
        scales = torch.where(error < best, scale, scales)
        best = torch.minimum(error, best)
    shifted = (_codes(rows, scales, limit) + limit).reshape(-1, 1).cpu().numpy()
    spread = np.unpackbits(shifted.astype(_WIDE).view(np.uint8), axis=1)[:, 16 - bits :]
    codes = torch.from_numpy(np.packbits(spread.reshape(-1)))
    return codes.to(tensor.device), scales.bfloat16()


def unpack(codes: Tensor, scales: Tensor, shape: torch.Size, bits: int) -> Tensor:
    """What `pack` stored, as float32 of the given shape."""
    count = shape.numel()
    spread = np.unpackbits(codes.cpu().numpy(), count=count * bits).reshape(count, bits)
    wide = np.zeros((count, 16), dtype=np.uint8)
    wide[:, 16 - bits :] = spread
    values = torch.from_numpy(np.packbits(wide, axis=1).view(_WIDE).astype(np.float32))
    limit = 2 ** (bits - 1) - 1
    rows = (values - limit).to(scales.device).reshape(len(scales), -1)
    return (rows * scales.float()[:, None]).reshape(shape)


def _codes(rows: Tensor, scales: Tensor, limit: int) -> Tensor:
    """Whole numbers from -limit to limit; zero where the scale is."""
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    found = (rows / safe[:, None]).round().clamp(-limit, limit)
    return torch.where(scales[:, None] > 0, found, torch.zeros_like(found))
