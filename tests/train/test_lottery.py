"""Lottery tickets: weights rewind, masks only shrink, trainings see what is left."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from training import batches, net, sgd, train, zeros

import secateur as sc
from secateur.train.lottery import lottery


def test_rounds() -> None:
    model = net()
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[dict[str, torch.Tensor]] = []

    def fit(model: nn.Module, hold: Any) -> float:
        optimizer = sgd(model)
        session = hold(optimizer)
        for name, mask in session.masks.items():
            assert torch.equal(model.get_parameter(name), first[name] * mask)
        seen.append({name: mask.clone() for name, mask in session.masks.items()})
        return train(model, optimizer, batches(10))

    ticket = lottery(model, fit, sparsity=0.7, rate=0.3)
    assert [round(s, 2) for s, _ in ticket.rounds] == [0.0, 0.3, 0.51, 0.66, 0.7]
    for before, after in pairwise(seen):
        assert all((after[name] <= before[name]).all() for name in after)
    assert all(torch.equal(ticket.start[name], first[name]) for name in first)
    assert zeros(model)[0] / zeros(model)[1] == pytest.approx(0.7, abs=1e-3)
    assert all(isinstance(loss, float) for _, loss in ticket.rounds)


def test_learning_rate_rewinding_keeps_the_weights() -> None:
    model = net()
    starts = []

    def fit(model: nn.Module, hold: Any) -> None:
        optimizer = sgd(model)
        hold(optimizer)
        starts.append(model.get_parameter("3.weight").detach().clone())
        train(model, optimizer, batches(3))
        starts.append(model.get_parameter("3.weight").detach().clone())

    lottery(model, fit, sparsity=0.3, rate=0.3, rewind={})
    end, again = starts[1], starts[2]
    assert torch.equal(end * (again != 0), again)


def test_train_has_to_hold() -> None:
    with pytest.raises(sc.SecateurError, match="did not call hold"):
        lottery(net(), lambda model, hold: None)
    with pytest.raises(sc.SecateurError, match="fractions"):
        lottery(net(), lambda model, hold: None, rate=1.0)
