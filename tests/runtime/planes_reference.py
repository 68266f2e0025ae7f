"""The kernels' contract in numpy and float64, as slow and as plain as possible."""

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
    x = x.astype(np.float64)
    for r in range(layer.rows):
        if layer.bias is not None:
            y[r] += layer.bias[r]
            size[r] += abs(layer.bias[r])
        if residual is not None:
            y[r] += residual[r]
            size[r] += np.abs(residual[r])
        for i in range(layer.indptr[r], layer.indptr[r + 1]):
            at = origin + begin + layer.offsets[i]
            with np.errstate(invalid="ignore"):
                y[r] += layer.values[i].astype(np.float64) * x[at : at + end - begin]
                size[r] += abs(layer.values[i]) * np.abs(x[at : at + end - begin])
    y = act(layer.activation, y)
    if layer.mask is not None:
        kept = np.zeros(max(end, len(layer.mask)), bool)
        kept[: len(layer.mask)] = layer.mask != 0
        y[:, ~kept[begin:end]] = 0
    return y, size
