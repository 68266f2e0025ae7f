"""Estimates against finite differences of the real thing, also where much is ablated already."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call, as_call
from secateur.core.errors import InputError
from secateur.interpret import ablate
from secateur.interpret.ablate import Places
from secateur.interpret.attribute import attributions


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.b, self.head = nn.Conv2d(6, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.norm(self.a(x)).tanh()).tanh()
        return self.head(x.mean((2, 3)))


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.core, self.head = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).tanh()
        x = x + self.core(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("ablated", [False, True])
@pytest.mark.parametrize(("kind", "shape"), [(Convolutional, (6, 2, 7, 7)), (Attentive, (6, 5, 4))])
def test_as_the_slope_of_the_loss(
    kind: type[nn.Module], shape: tuple[int, ...], ablated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = kind().double().eval(), torch.randn(shape, dtype=torch.float64)
    batch = (x, torch.arange(6) % 3)
    places = Places.of(model, as_call(model, x[:1]), [Call((x,), {})])
    base = places.full()
    if ablated:
        for mask in base.values():
            mask[1] = False
    found = attributions(model, places, [batch], loss, base if ablated else None)
    whole, step = ablate.gated, 1e-4
    for site in places.sites:
        for k in (0, site.n - 1):
            less = {name: mask.copy() for name, mask in base.items()}
            less[site.name][k] = False
            inner = places.gates(base)

            def partly(x: Tensor, gate: ablate.Gate, dim: int, inner: dict = inner) -> Tensor:
                """All that was ablated before, and a step towards what is ablated now."""
                before = [g for g in inner.values() if g.mean is gate.mean]
                start = whole(x, before[0], dim) if before else x
                return start + step * (whole(x, gate, dim) - start)

            with torch.no_grad(), places.only(model, base):
                low = loss(model, batch)
            monkeypatch.setattr(ablate, "gated", partly)
            with torch.no_grad(), places.only(model, less):
                high = loss(model, batch)
            monkeypatch.undo()
            slope = float((high - low).abs()) / step
            assert float(found[site.name][k]) == pytest.approx(slope, rel=0.01, abs=1e-7)


def test_the_model_is_left_alone_and_data_is_needed() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(5, 3)
    model[0].weight.requires_grad_(False)
    places = Places.of(model, as_call(model, x[:1]), [Call((x,), {})])
    with pytest.raises(InputError, match="no batch"):
        attributions(model, places, [], loss)
    found = attributions(model, places, [(x, torch.tensor([0, 1, 2, 0, 1]))], loss)
    assert found["0"].shape == (4,)
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
