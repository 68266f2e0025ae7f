"""Size attributes of PyTorch's own modules, without touching parametrized values."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils.prune import l1_unstructured

from secateur.graph.builtin import own_tensor, size_facts

MODULES = [
    nn.Linear(3, 5),
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose1d(4, 6, 3, groups=2),
    nn.BatchNorm2d(7),
    nn.BatchNorm1d(7, affine=False),
    nn.GroupNorm(2, 8),
    nn.Embedding(9, 4),
    nn.EmbeddingBag(9, 4),
    nn.LSTM(3, 5, 2),
    nn.GRU(3, 5, bidirectional=True),
    nn.LSTM(3, 5, proj_size=2),
    nn.LSTMCell(3, 5),
    nn.PReLU(4),
]


PRUNE = partial(l1_unstructured, name="weight", amount=1)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module).split("(")[0])
def test_facts_are_true(module: nn.Module) -> None:
    facts = list(size_facts(module))
    assert facts
    for attribute, tensor, dim in facts:
        assert getattr(module, attribute) == tensor.shape[dim]


def test_a_parametrized_weight_is_not_computed() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(3, 5)).train()
    u = layer.parametrizations.weight[0]._u.clone()
    facts = {attribute: tensor.shape[dim] for attribute, tensor, dim in size_facts(layer)}
    assert facts == {"out_features": 5, "in_features": 3}
    assert torch.equal(layer.parametrizations.weight[0]._u, u)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", [spectral_norm, weight_norm, PRUNE])
def test_the_hooks_of_old_are_known_by_what_they_keep(wrap: Any) -> None:
    for layer in (nn.Linear(3, 5), nn.Conv2d(4, 6, 3)):
        facts = list(size_facts(wrap(layer)))
        assert facts and all(getattr(layer, name) == t.shape[dim] for name, t, dim in facts)


def test_weight_norm_is_known_by_its_direction() -> None:
    tensor = own_tensor(parametrizations.weight_norm(nn.Linear(3, 5)), "weight")
    assert tensor is not None and tensor.shape == (5, 3)
