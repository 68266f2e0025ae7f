"""Held weights: what they see of their parameter and its optimizer."""

from __future__ import annotations

import torch
from training import adamw, batches, held, net, sgd, train


def test_used_values_are_the_parameters_memory() -> None:
    model = net()
    item = held(model)[1]
    item.used.fill_(2.0)
    assert (model[3].weight == 2).all()
    assert item.trained is not None and item.trained.data_ptr() == model[3].weight.data_ptr()


def test_a_mask_is_a_bit_a_weight() -> None:
    for item in held(net()):
        assert item.mask.all() and item.mask.shape == item.used.shape
        kept = torch.rand(item.used.shape) < 0.5
        item.mask = kept
        assert torch.equal(item.mask, kept) and torch.equal(item.bits, kept.to(torch.uint8))
        assert item.packed.dtype == torch.uint8 and len(item.packed) == -(-kept.numel() // 8)


def test_the_rate_is_that_of_the_group() -> None:
    model = net()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.5},
                                 {"params": model[3:].parameters(), "lr": 0.25}])  # fmt: skip
    assert [item.rate for item in held(model, optimizer)] == [0.5, 0.25, 0.25]


def test_momentum_is_found_and_forgotten() -> None:
    for make in (sgd, adamw):
        model = net()
        optimizer = make(model)
        items = held(model, optimizer)
        assert items[0].momentum() is None
        train(model, optimizer, batches(1))
        where = torch.zeros_like(items[1].mask)
        where[0] = True
        items[1].forget(where)
        found = items[1].momentum()
        assert found is not None and (found[0] == 0).all() and (found[1:] != 0).any()
