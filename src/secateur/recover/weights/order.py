"""Columns in the order in which patterns group them: tap after tap, channels side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def tap_major(columns: int, taps: int) -> Tensor:
    """The columns `c * taps + t` sorted by tap, then by channel.

    Example:
        >>> tap_major(6, 2).tolist()
        [0, 2, 4, 1, 3, 5]
    """
    return torch.arange(columns).reshape(-1, taps).t().reshape(-1)
