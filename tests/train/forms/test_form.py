"""Every form's chain rule, against autograd through the same formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from training import held

from secateur.train.forms import (
    Dense,
    Form,
    Hard,
    HardConcrete,
    Movement,
    SoftThreshold,
    SoftTopK,
    TopKAST,
)
from secateur.train.forms.gates import HIGH, LOW
from secateur.train.held import Held
from secateur.train.peers import Peers


def one(form: Form) -> Held:
    """A weight of 6 x 8 under a form, with a mask and a border in the middle."""
    torch.manual_seed(2)
    model = nn.Linear(8, 6, dtype=torch.float64)
    item = held(model)[0]
    item.latent = item.used.clone() if form.latent else None
    form.begin(item)
    old = item.mask
    item.mask = item.trained.abs() > item.trained.abs().median()
    form.renew(item, old, True, Peers())
    return item


def masked(item: Held, w: Tensor) -> Tensor:
    return w * item.mask


def straight(item: Held, w: Tensor) -> Tensor:
    return w + (w * item.mask - w).detach()


def soft_threshold(item: Held, w: Tensor) -> Tensor:
    return w.sign() * (w.abs() - item.extra["s"].double().sigmoid()).relu()


def soft_top_k(item: Held, w: Tensor) -> Tensor:
    return w * ((w**2 - item.extra["border"].double()) / 1e-2).sigmoid()


def gated(item: Held, w: Tensor) -> Tensor:
    return w * (item.extra["drawn"].double() * (HIGH - LOW) + LOW).clamp(0, 1)


CASES: list[tuple[Form, Callable[[Held, Tensor], Tensor]]] = [
    (Dense(), straight),
    (Movement(), masked),
    (SoftThreshold(start=-1.5), soft_threshold),
    (SoftTopK(temperature=1e-2), soft_top_k),
    (HardConcrete(start=0.5), gated),
]


@pytest.mark.parametrize(("form", "formula"), CASES, ids=lambda x: type(x).__name__)
def test_used_values_and_gradients(form: Form, formula: Callable[[Held, Tensor], Tensor]) -> None:
    item = one(form)
    form.draw(item, torch.Generator().manual_seed(0))
    w = item.trained.clone().requires_grad_()
    used = formula(item, w)
    out = torch.empty_like(w)
    with torch.no_grad():
        form.write(item, out)
    torch.testing.assert_close(out, used.detach(), rtol=1e-6, atol=1e-8)
    incoming = torch.randn(6, 8, dtype=torch.float64)
    (expected,) = torch.autograd.grad(used, w, incoming)
    with torch.no_grad():
        form.pull(item, incoming, Peers())
    torch.testing.assert_close(incoming, expected, rtol=1e-5, atol=1e-8)


def test_the_hard_form_is_the_mask() -> None:
    item = one(Hard())
    out = torch.empty_like(item.used)
    Hard().write(item, out)
    assert torch.equal(out, item.used * item.mask)
    assert item.latent is None


@pytest.mark.parametrize("form", [*(form for form, _ in CASES), TopKAST()], ids=str)
def test_what_stays_has_exact_zeros_where_the_mask_says(form: Form) -> None:
    item = one(form)
    out = torch.empty_like(item.used)
    form.write(item, item.used)
    form.renew(item, item.mask, True, Peers())
    form.close(item, out)
    if form.chosen:
        assert (out[~item.mask] == 0).all() and (out[item.mask] != 0).all()
