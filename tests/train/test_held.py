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
    item.bits.zero_()
    assert not item.mask.any()


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
