"""Normalisations of every kind, of activations and of weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from ._register import Registry, floats

MODELS = Registry()
_IMAGE = floats(2, 3, 24, 24)


def _normed(how: str) -> nn.Module:
    wrap = {
        "weight_norm_legacy": weight_norm,
        "spectral_norm_legacy": spectral_norm,
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "orthogonal": parametrizations.orthogonal,
    }[how]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), wrap(nn.Conv2d(16, 24, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), wrap(nn.Linear(24, 20)), nn.ReLU(), nn.Linear(20, 7),
    )  # fmt: skip


for _how in (
    "weight_norm_legacy",
    "spectral_norm_legacy",
    "weight_norm",
    "spectral_norm",
    "orthogonal",
):
    MODELS.put(_how, partial(_normed, _how), _IMAGE)


class _Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def _symmetric() -> nn.Module:
    layer = nn.Linear(20, 20)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), layer, nn.ReLU(), nn.Linear(20, 7))


MODELS.put("symmetric_parametrization", _symmetric, floats(5, 10))


def _norms(make: type[nn.Module] | partial[nn.Module]) -> nn.Module:
    layers = [m for c in (24, 32, 24) for m in (nn.LazyConv2d(c, 3), make(c), nn.PReLU(c))]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 7))
    model(torch.zeros(2, 3, 24, 24))
    return model


MODELS.put("group_norm", partial(_norms, partial(nn.GroupNorm, 4)), _IMAGE)
MODELS.put("instance_norm", partial(_norms, partial(nn.InstanceNorm2d, affine=True)), _IMAGE)
MODELS.put(
    "instance_norm_tracked",
    partial(_norms, partial(nn.InstanceNorm2d, affine=True, track_running_stats=True)),
    _IMAGE,
)
MODELS.put("layer_norm_as_group", partial(_norms, partial(nn.GroupNorm, 1)), _IMAGE)
MODELS.put("local_response_norm", partial(_norms, lambda c: nn.LocalResponseNorm(3)), _IMAGE)
