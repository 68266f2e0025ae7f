"""One process alone; several are in test_distributed.py."""

from __future__ import annotations

import torch
from training import net

from secateur.train.peers import Peers, is_spread, local, peers


def test_alone_everything_is_its_own() -> None:
    model = net()
    found = peers(model, model.parameters())
    assert found == Peers(None, None, torch.device("cpu"))
    value = torch.tensor([1.0, 2.0])
    assert found.sum(value) is value and found.least(value) is value
    assert found.count(3) == 3 and found.before(4) == (0, 4)
    assert found.mean(0.5) == 0.5 and found.same(7) == 7


def test_plain_tensors_are_not_spread() -> None:
    tensor = torch.zeros(2)
    assert not is_spread(tensor) and local(tensor) is tensor
