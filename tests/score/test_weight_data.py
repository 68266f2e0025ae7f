"""Criteria for single weights, each against its formula on a small layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from secateur.core.batches import Call
from secateur.measure.stats import Gather
from secateur.score.criterion import Facts
from secateur.score.weight_data import ria, wanda
from secateur.score.weight_run import resolve_weight, weight_scores
from secateur.units import weight_sites


class Net(nn.Module):
    """A convolution, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, (2, 3), stride=2, padding=1, groups=2)
        self.fc = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.conv(x)).flatten(1))


def scored(name: str, model: nn.Module, batches: Any, **more: Any) -> dict[str, Tensor]:
    gather = Gather(model, Call((batches[0][0],), {}), batches, **more)
    return dict(weight_scores(resolve_weight(name), weight_sites(model), Facts.of(model), gather))


@pytest.fixture
def net() -> nn.Module:
    return Net().double()


@pytest.fixture
def batches() -> list[Any]:
    x, y = torch.randn(12, 2, 5, 5).double() + 0.3, torch.randint(0, 3, (12,))
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def rows(net: Net, batches: list[Any]) -> tuple[Tensor, Tensor]:
    """What both weights read, from unfold and a forward by hand."""
    x = torch.cat([b[0] for b in batches])
    patches = nn.functional.unfold(x, (2, 3), padding=1, stride=2)  # [n, 2 * 6, positions]
    patches = patches.transpose(1, 2).reshape(-1, 2, 6)
    return patches, torch.tanh(net.conv(x)).flatten(1).detach()


def test_wanda_and_ria_by_hand(net: Net, batches: list[Any]) -> None:
    patches, flat = rows(net, batches)
    norms = patches.norm(dim=0).repeat_interleave(2, 0), flat.norm(dim=0)[None]
    weights = net.conv.weight.detach().reshape(4, 6).abs(), net.fc.weight.detach().abs()
    found, other = scored("wanda", net, batches), scored("ria", net, batches)
    for name, w, norm in zip(("conv.weight", "fc.weight"), weights, norms, strict=True):
        assert torch.allclose(found[name], w * norm)
        relative = w / w.sum(0, keepdim=True) + w / w.sum(1, keepdim=True)
        assert torch.allclose(other[name], relative * norm.sqrt())


def loss_of(net: nn.Module, batch: Any) -> Any:
    def loss(weight: Tensor) -> Tensor:
        output = functional_call(net, {"fc.weight": weight.reshape(3, 36)}, batch[0])
        return nn.functional.cross_entropy(output, batch[1])

    return loss


def test_gradient_criteria_by_hand(net: Net, batches: list[Any]) -> None:
    w = net.fc.weight.detach().flatten()
    grads = [torch.func.grad(loss_of(net, batch))(w) for batch in batches]
    mean = (grads[0] + grads[1]) / 2
    single = [
        torch.func.grad(loss_of(net, (x[None], y[None])))(w)
        for batch in batches
        for x, y in zip(*batch, strict=True)
    ]
    expected = {
        "taylor": sum((g * w).square() for g in grads) / 2,
        "snip": (mean * w).abs(),
        "fisher": sum((g * w).square() for g in single) / 24,
    }
    for name, values in expected.items():
        found = scored(name, net, batches)["fc.weight"].flatten()
        assert torch.allclose(found, values), name


def test_grasp_has_the_sign_by_which_the_lowest_goes(batches: list[Any]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(50, 3, bias=False)).double()
    w = net[1].weight.detach().flatten()

    def loss(weight: Tensor) -> Tensor:
        pairs = [(batch[0].flatten(1), batch[1]) for batch in batches]
        each = [nn.functional.cross_entropy(x @ weight.reshape(3, 50).T, y) for x, y in pairs]
        return sum(each) / len(each)

    expected = w * (hessian(loss, w) @ torch.func.grad(loss)(w))
    assert torch.allclose(scored("grasp", net, batches)["1.weight"].flatten(), expected)


def test_synflow_counts_paths() -> None:
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    first, last = (net[k].weight.detach().double().abs() for k in (0, 2))
    found = scored("synflow", net, [(torch.randn(4, 2), torch.zeros(4))])
    assert torch.allclose(found["0.weight"], first * last.sum(0)[:, None])
    assert torch.allclose(found["2.weight"], last * first.sum(1)[None])


def test_an_unused_weight_goes_by_magnitude_with_a_note(batches: list[Any]) -> None:
    class Spare(Net):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(3, 3)

    net = Spare().double()
    facts = Facts.of(net)
    gather = Gather(net, None, batches)
    for used in (wanda, ria):
        found = weight_scores(used, weight_sites(net), facts, gather)
        assert torch.isfinite(found["spare.weight"]).all()
        assert "spare.weight" in found.facts.notes[-1]
    assert torch.equal(
        weight_scores(wanda, weight_sites(net), facts, gather)["spare.weight"],
        net.spare.weight.detach().abs(),
    )
