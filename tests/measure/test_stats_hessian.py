"""Hessian-vector products against whole Hessians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.measure.stats_hessian import hessian_over_batches


class Sequences(nn.Module):
    """An LSTM and attention, of which the fused kernels cannot be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(x)[0]
        return self.attention(y, y, y, need_weights=False)[0].sum(2)


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - 1).square().mean()


@pytest.mark.parametrize("kind", ["conv", "sequences"])
def test_products_are_those_of_the_whole_hessian(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "conv":
        model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1)).double()
        data = [torch.randn(3, 1, 3, 3).double() for _ in range(2)]
    else:
        model, data = Sequences().double(), [torch.randn(2, 3, 2).double() for _ in range(2)]
    named = dict(model.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    vector = {k: torch.randn(p.shape).double() for k, p in named.items()}

    def at(x: Tensor) -> Any:
        def value(weights: Tensor) -> Tensor:
            parts = weights.split([p.numel() for p in named.values()])
            given = {k: part.view(named[k].shape) for k, part in zip(named, parts, strict=True)}
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                out = torch.func.functional_call(model, given, (x,))
            return (out - 1).square().mean()

        return value

    def visit(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        return {
            f"{need} {name}": tensor
            for need, by_name in found.items()
            for name, tensor in by_name.items()
        }

    found = hessian_over_batches(model, data, visit, gradient=vector, weights=True, loss=loss)
    hessian = sum(torch.autograd.functional.hessian(at(x), flat) for x in data) / 2
    gradient = sum(torch.autograd.functional.jacobian(at(x), flat) for x in data) / 2
    given = torch.cat([v.reshape(-1) for v in vector.values()])
    expected = {
        "gradients": gradient,
        "hessian_gradient": hessian @ given,
        "hessian_weights": hessian @ flat,
    }
    for need, values in expected.items():
        mine = torch.cat([found[f"{need} {name}"].reshape(-1) for name in named])
        torch.testing.assert_close(mine, values, rtol=1e-6, atol=1e-9)


def test_nothing_on_the_model_changes() -> None:
    model = nn.LSTM(2, 3).train()
    model.weight_ih_l0.requires_grad_(False)
    x = torch.randn(4, 1, 2)
    random, fused = torch.get_rng_state(), torch._C._get_mkldnn_enabled()
    hessian_over_batches(
        model, [x], lambda f: {"a": torch.ones(1)}, weights=True,
        loss=lambda m, x: m(x)[0].square().sum(),
    )  # fmt: skip
    assert model.training and not model.weight_ih_l0.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.get_rng_state().equal(random)
    assert torch._C._get_mkldnn_enabled() == fused


def test_a_linear_loss_has_no_curvature() -> None:
    model = nn.Linear(2, 1)
    found = hessian_over_batches(
        model, [torch.ones(1, 2)], lambda f: f["hessian_weights"], weights=True,
        loss=lambda m, x: m(x).sum(),
    )  # fmt: skip
    assert all(float(h.abs().sum()) == 0 for h in found.values()) and set(found) == {
        "weight",
        "bias",
    }


def test_no_data_is_refused() -> None:
    with pytest.raises(InputError, match="no batch"):
        hessian_over_batches(nn.Linear(2, 1), [], lambda f: {}, loss=loss)
