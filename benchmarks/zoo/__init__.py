"""Models to prune: registries of lazy builders, and the means to make them honest test subjects.

Nothing in this package knows about pruning. A registry maps a name to a function without
arguments that returns `(model, example)`; an example is a tensor, a tuple of positional arguments,
or a dict of keyword arguments. Everything is randomly initialised: nothing is downloaded.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Builder = Callable[[], tuple[nn.Module, Any]]

SETS: dict[str, str] = {
    "torchvision": "torchvision_zoo",
    "timm": "timm_zoo",
    "transformers": "transformers_zoo",
    "odd": "odd_zoo",
}

_NORM = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)


def registry(name: str) -> dict[str, Builder]:
    """The models of one set, in order: name -> builder."""
    module = importlib.import_module(f"{__name__}.{SETS[name]}")
    models: dict[str, Builder] = module.MODELS
    return models


def family(set_name: str, name: str) -> str:
    """The family under which a model is counted."""
    module = importlib.import_module(f"{__name__}.{SETS[set_name]}")
    families: Mapping[str, str] = module.FAMILIES
    return families.get(name, name)


def build(set_name: str, name: str, seed: int = 0) -> tuple[nn.Module, Any]:
    """Build one model with its example, the same every time: randomised, in evaluation mode."""
    torch.manual_seed(seed)
    model, example = registry(set_name)[name]()
    randomise(model, seed)
    settle(model.eval(), example, seed)
    return model, example


def run(model: nn.Module, example: Any) -> Any:
    """Call a model on an example."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Perturb, in place and deterministically, whatever an initialiser leaves constant.

    A check of a freshly built network is vacuous where a branch is multiplied by zero, a norm is
    the identity, or all biases are zero. Here norm weights and layer-scale factors become
    U(0.5, 1.5), zero weights and biases small random values, and running statistics plausible
    ones. Random weights stay, but are brought up to a share of the variance-preserving scale where
    they are so small that a branch would vanish (transformers start at a standard deviation of
    0.02). Nothing grows beyond that scale, so activations do not explode.
    """
    random = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                usable = parameter.is_floating_point() and parameter.numel() > 0
                if usable and id(parameter) not in seen:
                    seen.add(id(parameter))
                    _perturb(module, name, parameter, random)
            _statistics(module, random)
    return model


def settle(model: nn.Module, example: Any, seed: int = 0) -> nn.Module:
    """Bring running statistics, in place, near what the example gives, so that depth is harmless.

    One forward pass; each layer's mean and variance are taken over everything and then perturbed
    channel by channel. A model without running statistics is left alone.
    """
    random = torch.Generator().manual_seed(seed)
    seen: set[int] = set()

    def observe(module: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if inputs else None
        if id(module) in seen or not isinstance(x, Tensor) or x.numel() < 2:
            return
        seen.add(id(module))
        mean, std = float(x.mean()), float(x.std())
        shift = _normal(module.running_mean, 0.1, random)
        module.running_mean.copy_(mean + std * shift)
        module.running_var.copy_(
            _uniform(module.running_var, 0.5, 1.5, random) * max(std, 1e-3) ** 2
        )

    layers = [m for m in model.modules() if _has_statistics(m)]
    if layers:
        handles = [layer.register_forward_pre_hook(observe) for layer in layers]
        state = torch.random.get_rng_state()
        try:
            with torch.no_grad():
                run(model, example)
        finally:
            torch.random.set_rng_state(state)
            for handle in handles:
                handle.remove()
    return model


def _has_statistics(module: nn.Module) -> bool:
    found = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(value, Tensor) for value in found)


def _perturb(module: nn.Module, name: str, parameter: Tensor, random: torch.Generator) -> None:
    """Replace one parameter if it is constant, vanishing or uninitialised memory."""
    low, high = float(parameter.min()), float(parameter.max())
    if not (math.isfinite(low) and math.isfinite(high)) or max(-low, high) > 1e4:
        parameter.copy_(_normal(parameter, 0.02, random))
    elif low == high and parameter.numel() > 1:
        parameter.copy_(_instead_of(low, module, name, parameter, random))
    elif low == high == 0.0:
        parameter.copy_(_normal(parameter, 0.1, random))
    elif isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and name == "weight":
        wanted = 0.7 / math.sqrt(_fan_in(parameter))
        spread = float(parameter.std()) if parameter.numel() > 1 else wanted
        if 0.0 < spread < wanted:
            parameter.mul_(wanted / spread)


def _instead_of(
    value: float, module: nn.Module, name: str, parameter: Tensor, random: torch.Generator
) -> Tensor:
    """What takes the place of a parameter in which every element is `value`."""
    known = isinstance(module, _NORM)
    norm = known or "norm" in type(module).__name__.lower()
    vector = sum(size > 1 for size in parameter.shape) <= 1
    if value == 0.0:
        if known and name == "weight":
            return _uniform(parameter, 0.5, 1.5, random)
        if norm and name in ("weight", "scale", "gamma"):  # written as 1 + weight
            return _uniform(parameter, -0.5, 0.5, random)
        return _normal(parameter, 0.1 if vector else 0.5 / math.sqrt(_fan_in(parameter)), random)
    if vector and 0.0 < abs(value) <= 1.0:
        return math.copysign(1.0, value) * _uniform(parameter, 0.5, 1.5, random)
    return value * _uniform(parameter, 0.75, 1.25, random)


def _statistics(module: Any, random: torch.Generator) -> None:
    """Plausible running statistics."""
    if _has_statistics(module):
        module.running_mean.copy_(_normal(module.running_mean, 0.1, random))
        module.running_var.copy_(_uniform(module.running_var, 0.5, 1.5, random))


def _fan_in(weight: Tensor) -> int:
    return max(1, weight.numel() // weight.shape[0]) if weight.dim() > 1 else 1


def _normal(like: Tensor, std: float, random: torch.Generator) -> Tensor:
    return (torch.randn(like.shape, generator=random) * std).to(like.dtype)


def _uniform(like: Tensor, low: float, high: float, random: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=random) * (high - low) + low).to(like.dtype)
