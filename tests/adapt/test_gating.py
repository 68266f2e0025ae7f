"""Layers that compute live channels only, against masks written by hand."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.adapt.gating import KINDS, Gate, Pass, current
from secateur.adapt.heads import pool


def gate(inputs: int, channels: int, keep: int, pooled: int = 2) -> Gate:
    return Gate(keep, nn.Linear(pooled * inputs, channels)).eval()


def by_hand(maker: Any, between: Any, reader: Any, made: Gate, x: Tensor) -> Tensor:
    """All channels, and then the usual value where a channel was not chosen."""
    z = between(maker(x))
    top = made(pool(x)).topk(made.keep, 1).indices
    mask = torch.zeros(len(x), z.shape[1]).scatter_(1, top, 1.0)
    if isinstance(reader, nn.Linear) and z.dim() > 2:
        mask, z = mask.repeat_interleave(z[0, 0].numel(), 1), z.flatten(1)
        usual = reader.usual  # type: ignore[attr-defined]
    else:
        extra = [1] * (z.dim() - 2)
        mask, usual = mask.reshape(*mask.shape, *extra), reader.usual.reshape(-1, *extra)  # type: ignore[attr-defined]
    return reader(z * mask + usual * (1 - mask))


CHAINS: dict[str, tuple[Any, ...]] = {
    "conv": (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 3, padding=1), (3, 9, 9)),
    "conv 1d": (nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 5, 3, bias=False), (3, 20)),
    "conv 3d": (nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6), nn.Conv3d(6, 4, 2), (2, 4, 4, 4)),
    "depthwise": (
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.Conv2d(8, 5, 1),
        (3, 6, 6),
    ),
    "flattened": (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8 * 16, 5), (3, 6, 6)),
    "linear": (nn.Linear(10, 12), nn.BatchNorm1d(12), nn.Linear(12, 7), (10,)),
    "tokens": (nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 7, bias=False), (4, 10)),
}


@pytest.fixture(params=list(CHAINS))
def parts(request: pytest.FixtureRequest) -> tuple[Any, Any, Any, Gate, Tensor]:
    *layers, shape = copy.deepcopy(CHAINS[request.param])
    maker, between, reader = (KINDS[type(m)](m.eval()) if type(m) in KINDS else m for m in layers)
    if isinstance(between, nn.modules.batchnorm._BatchNorm):
        between.running_mean.normal_()
        between.running_var.uniform_(0.5, 2)
    x = torch.randn(4, *shape)
    z = between(maker(x))
    tokens = isinstance(maker, nn.Linear) and x.dim() > 2
    channels = z.shape[-1] if tokens else z.shape[1]
    maker.makes = reader.reads = between.passes = "a"
    inputs = pool(x).shape[1]
    reader.times = reader.in_features // channels if isinstance(reader, nn.Linear) else 1
    reader.usual = torch.randn(channels * reader.times)
    return maker, between, reader, gate(inputs, channels, channels // 2, pooled=1), x


def chain(parts: tuple[Any, ...], x: Tensor, gathers: bool) -> Tensor:
    maker, between, reader, made, _ = parts
    token = current.set(Pass({"a": made}, gathers))
    try:
        z = between(maker(x))
        return reader(z.flatten(1) if reader.times > 1 else z)
    finally:
        current.reset(token)


@torch.no_grad()
def test_live_channels_alone_give_what_masks_give(parts: tuple[Any, ...]) -> None:
    x = parts[-1]
    whole = chain(parts, x, gathers=True)
    assert torch.allclose(whole, chain(parts, x, gathers=False), atol=1e-5)
    for _ in range(2):  # the second time with a constant that was kept
        alone = torch.cat([chain(parts, one, gathers=True) for one in x.split(1)])
        assert torch.allclose(whole, alone, atol=1e-5)


@torch.no_grad()
def test_masks_are_those_of_the_most_salient(parts: tuple[Any, ...]) -> None:
    maker, _, _, made, x = parts
    if x.dim() == 3 and isinstance(maker, nn.Linear):
        pytest.skip("tokens: channels are last")
    assert torch.allclose(chain(parts, x, False), by_hand(*parts[:3], made, x), atol=1e-5)


def test_outside_a_run_layers_are_ordinary(parts: tuple[Any, ...]) -> None:
    maker, between, _, _, x = parts
    maker.makes = ""
    with torch.no_grad():
        assert between(maker(x)).shape == chain(parts, x, False).shape[:0] + between(maker(x)).shape


@torch.no_grad()
def test_constants_follow_the_weights() -> None:
    layer = KINDS[nn.Linear](nn.Linear(6, 3))
    layer.usual = torch.randn(6)
    x = torch.zeros(1, 6)
    first = layer._constant(x)
    assert layer._constant(x) is first
    layer.weight.mul_(2)
    assert torch.allclose(
        layer._constant(x), layer.usual @ layer.weight.t() + layer.bias, atol=1e-6
    )
    assert pickle.loads(pickle.dumps(layer))._still == {}


def test_a_gate_learns_through_its_mask() -> None:
    made = gate(5, 8, 3, pooled=1).train()
    made.up.requires_grad_(True)
    mask = made.mask(torch.randn(6, 5))
    assert torch.equal(mask.detach().round(), mask.detach().round().clamp(0, 1))
    assert bool((mask.detach().round().sum(1) == 3).all())
    (mask * torch.randn(6, 8)).sum().backward()
    assert bool(made.up.weight.grad.any())  # type: ignore[union-attr]


@torch.no_grad()
def test_predictors_of_two_parts() -> None:
    made = Gate(2, nn.Linear(3, 6), nn.Linear(9, 3, bias=False))
    x = torch.randn(1, 9)
    wanted = made.up(made.down(x))[0].topk(2).indices.sort().values  # type: ignore[misc]
    assert torch.equal(made.live(x), wanted)
