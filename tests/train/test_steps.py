"""The hooks around a step; most of it is tested through attach."""

from __future__ import annotations

import torch
from training import batches, net, sgd, train

import secateur as sc
from secateur.train.steps import skipped, unscale


def test_a_weight_without_a_gradient_keeps_its_trained_values() -> None:
    model = net()
    optimizer = sgd(model)
    session = sc.attach(model, optimizer, sc.presets.dpf(0.5, end=1, every=1))
    train(model, optimizer, batches(1))
    before = [item.trained.clone() for item in session._held]
    optimizer.zero_grad()
    optimizer.step()
    for item, old in zip(session._held, before, strict=True):
        assert torch.equal(item.trained, old)
        assert torch.equal(item.used, old * item.mask)


def test_scales_and_overflows() -> None:
    model = net()
    optimizer = sgd(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, 8.0)
    assert not skipped(optimizer)
    unscale(optimizer)
    optimizer.grad_scale = torch.tensor(4.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    assert skipped(optimizer)
    unscale(optimizer)
    assert all((p.grad == 2).all() for p in model.parameters())  # type: ignore[union-attr]
    assert optimizer.grad_scale is None  # type: ignore[attr-defined]


def test_moving_a_model_between_steps() -> None:
    """`model.to` gives parameters new memory; masks go on."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = sc.attach(model, optimizer, sc.Recipe(budget=sc.Sparsity(0.5)))
    model.to(torch.float64)
    train(model, optimizer, batches(2, dtype=torch.float64))
    for name, mask in session.masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()


def test_parameters_keep_their_memory() -> None:
    model = net()
    optimizer = sgd(model)
    places = [p.data_ptr() for p in model.parameters()]
    sc.attach(model, optimizer, sc.presets.dpf(0.5, end=1, every=1))
    train(model, optimizer, batches(3))
    assert [p.data_ptr() for p in model.parameters()] == places
