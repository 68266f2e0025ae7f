"""The kernels' contract in numpy and float64, as plain as possible."""

from __future__ import annotations

import numpy as np
import torch

from secateur.runtime.planes import Planes

FUNCTIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": torch.nn.functional.relu6,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "hardswish": torch.nn.functional.hardswish,
}


def act(name: str, x: np.ndarray) -> np.ndarray:
    """An activation in float64, as PyTorch has it."""
    return FUNCTIONS[name](torch.from_numpy(np.asarray(x, np.float64))).numpy()


def reference(
    layer: Planes,
    x: np.ndarray,
    origin: int,
    begin: int,
    end: int,
    residual: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs `[rows, end - begin]` in float64, and the sum of magnitudes that errors relate to.

    x: the whole buffer, whose element `origin` is the input's origin. residual: `[rows, positions]`
    for the positions of the range.
    """
    y = np.zeros((layer.rows, end - begin))
    size = np.zeros_like(y)
    for r in range(layer.rows):
        here = slice(layer.indptr[r], layer.indptr[r + 1])
        read = x[origin + layer.offsets[here, None] + np.arange(begin, end)].astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            y[r] = layer.values[here].astype(np.float64) @ read
            size[r] = np.abs(layer.values[here]) @ np.abs(read)
    for term in (None if layer.bias is None else layer.bias[:, None], residual):
        if term is not None:
            y += term
            size += np.abs(term)
    y = act(layer.activation, y)
    if layer.mask is not None:
        kept = np.zeros(max(end, len(layer.mask)), bool)
        kept[: len(layer.mask)] = layer.mask != 0
        y[:, ~kept[begin:end]] = 0
    return y, size
