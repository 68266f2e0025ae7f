"""Solving layers front to back: what is pruned how, and what cannot be solved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.plan import Plan, fingerprint
from secateur.core.tensors import light_copy, own_memory
from secateur.measure.calibration import calibration
from secateur.recover import Job
from secateur.recover.distance import distance, outputs
from secateur.recover.weights import alps, solvers
from secateur.recover.weights.walk import Walk
from secateur.units import NM, Pattern, weight_sites


def walked(model: nn.Module, x: Any, pattern: Pattern, density: float, name: str = "alps") -> Job:
    small = light_copy(model)
    own_memory(small, model)
    job = Job(model, small, Plan(fingerprint(model), {}), {}, calibration(model, [x]))
    places = weight_sites(model)
    shares = dict.fromkeys((site.name for site in places), density)
    Walk(solver=solvers.get(name), sites=places, pattern=pattern, densities=shares).run(job)
    return job


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("name", list(solvers))
@pytest.mark.parametrize("pattern", [Pattern(), NM(2, 4).pattern])
def test_every_solver_beats_zeros_alone(name: str, pattern: Pattern) -> None:
    model, x = net(), torch.randn(60, 3, 9, 9)
    job = walked(model, x, pattern, 0.5, name)
    assert job.masks is not None and job.calibration is not None
    plain = light_copy(model)
    own_memory(plain, model)
    for site in weight_sites(model):
        weight = plain.get_parameter(site.name)
        keep = pattern.choose(site.matrix(weight.detach()).abs(), 0.5, site.taps)
        with torch.no_grad():
            weight.mul_(site.tensor(keep))
        found = job.small.get_parameter(site.name)
        assert torch.equal(found != 0, job.masks[site.name])
        slack = 2 if "3" in site.name else 0  # each group of a convolution rounds down
        assert int(keep.sum()) - slack <= int(job.masks[site.name].sum()) <= int(keep.sum())
    held = job.calibration.held
    assert job.distance < 0.6 * distance(outputs(model, held), outputs(plain, held))
    assert "layers solved" in job.notes[-1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_weights_are_solved_from_all_their_uses(kind: Any) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = kind(5, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0].mean(1))

    job = walked(Last().eval(), torch.randn(80, 9, 5), Pattern(), 0.5)
    assert job.masks is not None
    for name, mask in job.masks.items():
        assert int(mask.sum()) == mask.numel() // 2, name
    assert job.distance < 0.2 and len(job.notes) == 1


class Shared(nn.Module):
    """One weight that is also added, one that a branch never reaches, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.never, self.plain = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(x) + self.both.weight.sum()
        return self.plain(torch.relu(self.never(y) if len(x) > 1000 else y))


def test_what_cannot_be_solved_is_pruned_by_magnitude_and_said() -> None:
    model = Shared().eval()
    job = walked(model, torch.randn(80, 6), Pattern(), 0.5)
    assert job.masks is not None
    for name in ("both", "never"):
        weight = model.get_parameter(f"{name}.weight").detach()
        keep = Pattern().choose(weight.abs(), 0.5)
        assert torch.equal(job.small.get_parameter(f"{name}.weight"), weight * keep)
        assert any(note.startswith(f"{name}.weight: no layer") for note in job.notes)
    assert not any(note.startswith("plain") for note in job.notes)


class Cross(nn.Module):
    """Attention of the first steps to all: one packed weight that reads two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x[:, :3], x, x, need_weights=False)[0]


def test_parts_of_a_packed_projection_are_solved_by_themselves() -> None:
    job = walked(Cross().eval(), torch.randn(60, 7, 16), Pattern(), 0.5)
    assert job.masks is not None
    packed = job.masks["attend.in_proj_weight"]
    assert int(packed[:16].sum()) == 128 and int(packed[16:].sum()) == 256
    assert job.distance < 0.3


def test_the_dense_network_stays_as_it_is() -> None:
    model, x = net(), torch.randn(40, 3, 9, 9)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    walked(model, x, Pattern(), 0.5)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert solvers.get("alps") is alps
