"""2:4 layers, as far as that can be seen without a GPU (the kernels: `tests/gpu`).

A dense tensor stands for the packed weight: torch runs linear maps of either alike.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.engine import semi_structured
from secateur.engine.semi_structured import SemiStructured, is_24, refusal
from secateur.units import NM


def sparse(layer: Any) -> Any:
    with torch.no_grad():
        matrix = layer.weight.flatten(1)
        matrix.mul_(NM(2, 4).pattern.choose(matrix.abs(), 0.5, 1))
    return layer.eval()


def packed(layer: Any) -> SemiStructured:
    return SemiStructured.of(layer, "2:4 cutlass", layer.weight.detach().flatten(1).clone())


def test_what_is_24() -> None:
    torch.manual_seed(0)
    layer = sparse(nn.Linear(16, 8))
    assert is_24(layer.weight)
    assert not is_24(layer.weight.t())
    assert is_24(torch.zeros(3, 8))
    assert not is_24(torch.zeros(3, 6))
    weight = torch.zeros(2, 8)
    weight[1, 4:7] = 1
    assert not is_24(weight)
    weight[1, 5] = float("nan")
    assert not is_24(weight)


@torch.no_grad()
def test_same_outputs_in_every_form() -> None:
    layer = sparse(nn.Linear(16, 8))
    module = packed(layer)
    for x in (torch.randn(16), torch.randn(3, 16), torch.randn(2, 5, 16).transpose(0, 1)):
        assert torch.allclose(module(x), layer(x), atol=1e-6)
    assert module(torch.zeros(0, 4, 16)).shape == (0, 4, 8)
    conv = sparse(nn.Conv2d(16, 8, 1, bias=False))
    module = packed(conv)
    for image in (torch.randn(2, 16, 3, 5), torch.randn(16, 3, 5)):
        assert torch.allclose(module(image), conv(image), atol=1e-6)
    assert torch.equal(module.weight, conv.weight)


def test_no_gradients_no_moves_no_pickles() -> None:
    module = packed(sparse(nn.Linear(16, 8)))
    with pytest.raises(InputError, match="no gradients"):
        module(torch.zeros(1, 16, requires_grad=True))
    assert not list(module.parameters())
    with pytest.raises(InputError, match="cannot move"):
        module.double()
    assert module.cpu() is module
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(module)
    assert "16, 8, 2:4 cutlass" in repr(module)


def test_copies_and_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(semi_structured._FORMS, "2:4 cutlass", Tensor.clone)
    first, second = sparse(nn.Linear(16, 8)), sparse(nn.Linear(16, 8))
    module = packed(first)
    twin = copy.deepcopy(nn.Sequential(module))
    assert twin.state_dict().keys() == nn.Sequential(first).state_dict().keys()
    twin.load_state_dict(nn.Sequential(second).state_dict())
    x = torch.randn(3, 16)
    with torch.no_grad():
        assert torch.allclose(twin(x), second(x), atol=1e-6)
        assert torch.allclose(module(x), first(x), atol=1e-6)
    with pytest.raises(RuntimeError, match="two of every four"):
        twin.load_state_dict(nn.Sequential(nn.Linear(16, 8)).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({"bias": torch.zeros(8)})


def test_reasons_without_a_gpu() -> None:
    assert refusal(sparse(nn.Linear(16, 8))) == "2:4 kernels need a CUDA GPU"
