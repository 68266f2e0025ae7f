"""Circuits, ranks and features on a GPU."""

from __future__ import annotations

import pytest
import torch
from cuda_nets import GPU, at_home, labelled, net
from torch import nn

import secateur as sc


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_circuit(where: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 6)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    y = model(x).argmax(1)
    found = sc.circuit(model.to(GPU), [(x.to(where), y.to(where))], 1, passes=100)
    assert found.behaviour.faithfulness > 0.7
    assert 0 < found.share < 1
    assert at_home(model)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_rank(where: str) -> None:
    model = net("convolutions")
    found = sc.rank_units(model, labelled("convolutions", device=where), most=10)
    assert str(found)
    assert at_home(model)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_features(where: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 5)
    y = (x[:, 0] + x[:, 3] > 0).long()
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)).to(GPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.to(GPU)), y.to(GPU)).backward()
        optimizer.step()
    batches = [(a.to(where), b.to(where)) for a, b in zip(x.split(50), y.split(50), strict=True)]
    found = sc.features(
        model, batches, evaluate=sc.Accuracy(batches), seeds=1,
        recover=[sc.Finetune(epochs=2, lr=1e-2)],
    )  # fmt: skip
    assert {0, 3} <= set(found.selected)
    assert at_home(model)
