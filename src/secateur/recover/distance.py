"""How far a network's outputs are from the dense one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, tensors_in, untouched


def outputs(model: nn.Module, calls: Sequence[Call]) -> list[list[Tensor]]:
    """The floating-point outputs of every call, in eval mode, on the model's device."""
    with untouched(model), torch.no_grad():
        return [_floats(call.run(model)) for call in calls]


def distance(dense: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]]) -> float:
    """Mean squared difference relative to the variance of the dense outputs; infinite for NaN.

    The last dimension of `[n, t, c]` is a token's outputs, and tokens are samples. Scores of
    classes are compared as they are: log-probabilities would count most what is least likely.
    Recurrent states that got narrower are left out.

    Example:
        >>> distance([[torch.tensor([[1.0], [3.0]])]], [[torch.tensor([[2.0], [3.0]])]])
        0.5
    """
    apart = spread = power = 0.0
    for reference, found in zip(dense, other, strict=True):
        for a, b in zip(reference, found, strict=True):
            if a.shape != b.shape:
                continue
            x, y = (_rows(t.double()) for t in (a, b))
            apart += float((x - y).square().sum())
            power += float(x.square().sum())
            spread += (
                float((x - x.mean(0)).square().sum()) if len(x) > 1 else float(x.square().sum())
            )
    spread = max(spread, 1e-6 * power, 1e-30)  # equal outputs: no division by their rounding
    return apart / spread if apart == apart else float("inf")


def _rows(value: Tensor) -> Tensor:
    if value.dim() == 3:
        return value.flatten(0, 1)
    return value.flatten(1) if value.dim() > 1 else value.reshape(-1, 1)


def _floats(output: Any) -> list[Tensor]:
    return [t for t in tensors_in(output) if t.is_floating_point() and t.numel()]
