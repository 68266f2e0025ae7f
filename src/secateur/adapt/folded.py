"""Batch normalisations that go into the layers before them, in networks that only infer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.apply.verify import compare, run_detached
from secateur.core.batches import Call, hooked, untouched
from secateur.core.tensors import light_copy

Pairs = tuple[tuple[str, str], ...]
"""Names of layers, and of the batch normalisations directly behind them."""

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_Norm = nn.modules.batchnorm._BatchNorm


def foldable(model: nn.Module, call: Call) -> Pairs:
    """The batch normalisations of nothing but one layer's outputs.

    They are seen in one run, and outputs without them are compared: none is given where something
    else reads a layer's outputs too.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU()).eval()
        >>> foldable(net, Call((torch.zeros(1, 2),), {}))
        (('0', '1'),)
    """
    names = {module: name for name, module in model.named_modules()}
    layers = [module for module in names if type(module) in _LAYERS]
    norms = [module for module in names if isinstance(module, _Norm) and _fixed(module)]
    makers: list[tuple[Tensor, nn.Module]] = []
    found: list[tuple[str, str]] = []
    ran: list[nn.Module] = []

    def leave(module: nn.Module, args: Any, out: Tensor) -> None:
        ran.append(module)
        makers.append((out, module))

    def enter(module: nn.Module, args: Any) -> None:
        ran.append(module)
        found.extend((names[m], names[module]) for out, m in makers if out is args[0])

    hooks = [(layer.register_forward_hook, leave) for layer in layers]
    hooks += [(norm.register_forward_pre_hook, enter) for norm in norms]
    with hooked(hooks), untouched(model), torch.no_grad():
        call.run(model)
    once = {names[module] for module in ran if ran.count(module) == 1}
    pairs = tuple(pair for pair in found if once.issuperset(pair))
    without = fold(light_copy(model), pairs)
    same = compare(run_detached(model, call), run_detached(without, call)).ok
    return pairs if same else ()


def fold(model: nn.Module, pairs: Pairs) -> nn.Module:
    """Put batch normalisations into the layers before them, in place; layers get new tensors."""
    for name, behind in pairs:
        layer: Any = model.get_submodule(name)
        norm: Any = model.get_submodule(behind)
        with torch.no_grad():
            scale = (norm.running_var + norm.eps).rsqrt()
            shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
            if norm.weight is not None:
                scale = scale * norm.weight
            shift = shift * scale if norm.bias is None else shift * scale + norm.bias
            weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
        kind = layer.weight.dtype
        layer.weight = nn.Parameter(weight.to(kind), requires_grad=False)
        layer.bias = nn.Parameter(shift.to(kind), requires_grad=False)
        model.set_submodule(behind, nn.Identity())
    return model


def _fixed(norm: nn.Module) -> bool:
    """Whether it has statistics of its own, so that it is one multiplication and one addition."""
    this: Any = norm
    return this.running_mean is not None and this.running_var is not None
