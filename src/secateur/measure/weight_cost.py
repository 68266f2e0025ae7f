"""What a network with zeros costs: parameters that are there, and products that are not by zero."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.measure.cost import Amounts
from secateur.measure.linear import Use
from secateur.measure.stats_inputs import watch


def weight_amounts(model: nn.Module, call: Call, masks: Mapping[str, Tensor]) -> Amounts:
    """Parameters without those that masks remove, multiply-accumulates by what is left, bytes.

    macs: of linear operations with weights, in one run on the call; products of activations with
    each other (attention scores) do not count, and biases do not. They are what a kernel that knows
    the zeros has to do: a dense kernel does all of them. bytes: of parameters and buffers as they
    lie in memory, zeros included.

    Example:
        >>> import torch
        >>> net, x = nn.Linear(4, 2), torch.ones(3, 4)
        >>> keep = torch.tensor([[True, False, False, True], [False, False, True, False]])
        >>> weight_amounts(net, Call((x,), {}), {"weight": keep})
        Amounts(params=5, macs=9, bytes=40)
    """
    gone = sum(int((~mask).sum()) for mask in masks.values())
    params = sum(p.numel() for p in model.parameters())
    tensors = {t.data_ptr(): t for t in [*model.parameters(), *model.buffers()]}
    macs = 0

    def see(use: Use) -> None:
        nonlocal macs
        spec = use.spec
        weight = model.get_parameter(spec.weight)
        mask = masks.get(spec.weight)
        used = spec.matrix(weight.detach() if mask is None else mask)
        entries = used.numel() if mask is None else int(used.sum())
        rows = use.x.shape[0] * prod(use.x.shape[2:]) if spec.kind == "transposed" else use.count
        macs += rows * entries

    watch(model, [call], see)
    return Amounts(params - gone, macs, sum(t.nbytes for t in tensors.values()))


__all__ = ["weight_amounts"]
