"""Ablation by hand: what a weight reads is replaced, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call, as_call
from secateur.core.errors import UnsupportedModel
from secateur.interpret.ablate import Places
from secateur.units import Layer


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.deep = nn.Conv2d(6, 6, 3, groups=6)
        self.mix = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(self.conv(x).relu()).relu()
        return self.head(self.mix(x).relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def places(model: nn.Module, x: Tensor, **more: Any) -> Places:
    return Places.of(model, as_call(model, x[:1]), [Call((x,), {})], **more)


@pytest.mark.parametrize("site", ["conv", "mix"])
def test_reading_is_replaced_by_the_mean(site: str) -> None:
    torch.manual_seed(0)
    model, x = Chain().eval(), torch.randn(5, 2, 6, 6)
    found = places(model, x)
    keeps = found.full()
    assert {name: len(mask) for name, mask in keeps.items()} == {"conv": 6, "mix": 4}
    keeps[site][[1, 3]] = False
    with torch.no_grad(), found.only(model, keeps):
        out = model(x)
    with torch.no_grad():
        first = model.conv(x).relu()
        if site == "conv":  # its readers: the depthwise one's channels, and those behind it
            second = model.deep(first).relu()
            second[:, [1, 3]] = second.mean((0, 2, 3))[[1, 3], None, None]
            wanted = model.head(model.mix(second).relu().mean((2, 3)))
        else:
            third = model.mix(model.deep(first).relu()).relu().mean((2, 3))
            third[:, [1, 3]] = third.mean(0)[[1, 3]]
            wanted = model.head(third)
    assert torch.allclose(out, wanted, atol=1e-6)
    assert not torch.allclose(out, model(x), atol=1e-5)


def test_with_nothing_left_all_inputs_are_alike() -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(4, 6, 3)
    before = model(x)
    found = places(model, x)
    with (
        torch.no_grad(),
        found.only(model, {"rnn.weight_ih_l0": ~found.full()["rnn.weight_ih_l0"]}),
    ):
        out = model(x)
    assert torch.allclose(out, out[:1].expand_as(out), atol=1e-6)
    assert torch.equal(model(x), before)


def test_packed_attention_loses_heads() -> None:
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(6, 8)
            self.core, self.head = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return self.head(x + self.core(x, x, x, need_weights=False)[0])

    model, x = Attention().eval(), torch.randn(3, 5, 6)
    found = places(model, x)
    (name,) = (site.name for site in found.sites if site.unit == "head")
    keeps = found.full()
    keeps[name][2] = False
    (gate,) = found.gates({name: keeps[name]}).values()
    assert gate.keep.tolist() == [k not in (4, 5) for k in range(8)]
    with torch.no_grad(), found.only(model, {name: keeps[name]}):
        out = model(x)
    with torch.no_grad():  # by hand: the mean of the head's outputs goes through its columns
        _, weights = model.core(*[model.up(x)] * 3, average_attn_weights=False)
        value = nn.functional.linear(
            model.up(x), model.core.in_proj_weight[16:], model.core.in_proj_bias[16:]
        )
        mixed = weights @ value.unflatten(2, (4, 2)).transpose(1, 2)
        mixed[:, 2] = mixed[:, 2].mean((0, 1))
        back = model.core.out_proj(mixed.transpose(1, 2).flatten(2))
        wanted = model.head(model.up(x) + back)
    assert torch.allclose(out, wanted, atol=1e-6)
    assert not torch.allclose(out, model(x), atol=1e-4)


def test_a_model_without_units_is_refused() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(UnsupportedModel, match="no units"):
        places(nn.Linear(4, 2), x)
    with pytest.raises(UnsupportedModel, match="no units"):
        places(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), x, unit=Layer())
