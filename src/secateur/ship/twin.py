"""A copy of a model without memory, on which a plan can be tried."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def meta_twin(model: nn.Module) -> nn.Module:
    """A deep copy whose parameters, buffers and plain tensors are on the meta device.

    Takes no memory for weights; the model is left untouched.

    Example:
        >>> meta_twin(nn.Linear(3, 2)).weight
        Parameter containing:
        tensor(..., device='meta', size=(2, 3), requires_grad=True)
    """
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for module in model.modules():
        for value in [*module.__dict__.values(), *module._buffers.values()]:
            if isinstance(value, Tensor):
                memo[id(value)] = torch.empty_like(value.detach(), device="meta")
    return copy.deepcopy(model, memo)
