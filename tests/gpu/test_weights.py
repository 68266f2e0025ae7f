"""Single weights on a GPU: the masks of the CPU, solvers that agree, streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_nets import FAMILIES, GPU, apart, at_home, data, labelled, net, run
from torch import Tensor, nn

import secateur as sc


def alike(first: Any, second: Any) -> float:
    """The share of entries at which two results' masks agree."""
    pairs = [(first.masks[name].cpu(), second.masks[name].cpu()) for name in second.masks]
    assert first.masks.keys() == second.masks.keys()
    return float(torch.cat([(a == b).flatten() for a, b in pairs]).float().mean())


@pytest.mark.parametrize("unit", [sc.Weight(), sc.NM(2, 4), sc.Block(4, 1), sc.Weight(per="row")])
@pytest.mark.parametrize("family", FAMILIES)
def test_magnitudes(family: str, unit: Any) -> None:
    x = data(family, 4)
    found = sc.prune(net(family), x, unit=unit, latency=False)
    wanted = sc.prune(net(family, "cpu"), x, unit=unit, latency=False)
    assert alike(found, wanted) == 1
    assert at_home(found.model, dict(found.masks))
    assert apart(run(wanted.model, x), run(found.model, x)) < 2e-3


@pytest.mark.parametrize("allocate", ["global", "erk", "owl", "sensitivity"])
def test_allocations(allocate: str) -> None:
    x = data("attention")
    found = sc.prune(
        net("attention"), data=x.to(GPU), unit=sc.Weight(), allocate=allocate, latency=False
    )
    wanted = sc.prune(
        net("attention", "cpu"), data=x, unit=sc.Weight(), allocate=allocate, latency=False
    )
    assert alike(found, wanted) > 0.98
    assert at_home(found.model)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("criterion", ["wanda", "ria", "sparsegpt", "alps", "obc"])
def test_criteria_of_activations(criterion: str, where: str) -> None:
    x, budget = data("attention", 64), sc.Sparsity(0.5)
    arguments: dict[str, Any] = {
        "unit": sc.Weight(per="row"), "criterion": criterion, "budget": budget, "recover": [],
        "latency": False,
    }  # fmt: skip
    model = net("attention")
    found = sc.prune(model, data=x.to(where), **arguments)
    wanted = sc.prune(net("attention", "cpu"), data=x, **arguments)
    assert alike(found, wanted) > 0.9
    dense = run(model, x)
    assert apart(dense, run(found.model, x)) < 1.2 * apart(dense, run(wanted.model, x)) + 0.01
    assert at_home(found.model)


@pytest.mark.parametrize("criterion", ["snip", "synflow", "grasp", "fisher", "woodfisher"])
def test_criteria_of_gradients(criterion: str) -> None:
    found = sc.prune(
        net("convolutions"), data=labelled("convolutions"), unit=sc.Weight(), criterion=criterion,
        recover=[], latency=False,
    )  # fmt: skip
    assert at_home(found.model)
    total = sum(mask.numel() for mask in found.masks.values())
    assert sum(int(mask.sum()) for mask in found.masks.values()) == pytest.approx(total / 2, abs=9)


@pytest.mark.parametrize("family", FAMILIES)
def test_repairs_keep_zeros(family: str) -> None:
    x, model = data(family, 64), net(family)
    arguments: dict[str, Any] = {
        "unit": sc.Weight(), "budget": sc.Sparsity(0.7), "latency": False
    }  # fmt: skip
    plain = sc.prune(model, data=x, recover=[], **arguments)
    repaired = sc.prune(model, data=x, **arguments)
    dense = run(model, x)
    assert apart(dense, run(repaired.model, x)) <= apart(dense, run(plain.model, x))
    for name, mask in repaired.masks.items():
        assert int(repaired.model.get_parameter(name)[~mask].count_nonzero()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt", "alps"])
def test_half_precision(criterion: str, dtype: Any) -> None:
    model, x = net("attention", dtype=dtype), data("attention", 32, GPU, dtype)
    found = sc.prune(model, data=x, unit=sc.NM(2, 4), criterion=criterion, latency=False)
    assert {p.dtype for p in found.model.parameters()} == {dtype}
    assert apart(run(model, x), run(found.model, x)) < 0.8


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.layers = nn.ModuleList(Block(16) for _ in range(3))
        self.head = nn.Linear(16, 40)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_stream(where: str) -> None:
    model, ids = Decoder().eval().to(GPU), torch.randint(40, (16, 12))
    found = sc.prune(
        model, data=[ids.to(where)], unit=sc.Weight(per="row"), criterion="sparsegpt",
        stream="blocks",
    )  # fmt: skip
    assert at_home(found.model, model)
    assert apart(run(model, ids), run(found.model, ids)) < 0.5
