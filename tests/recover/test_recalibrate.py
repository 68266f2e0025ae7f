"""Batch-norm statistics measured anew: those of the data, and only where they help."""

from __future__ import annotations

import torch
from repair_nets import shrink, unsettle
from torch import nn

from secateur.recover import Recalibrate


def net() -> nn.Module:
    return unsettle(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6),
            nn.Flatten(), nn.Linear(24, 4),
        )
    )  # fmt: skip


def test_statistics_are_those_of_the_calls() -> None:
    model, x = net(), torch.randn(160, 3, 6, 6)
    for norm in (model[1], model[4]):  # statistics of the data, so that new ones help
        norm.momentum = 1.0
    model.train()(x)
    model.eval()
    cut = shrink(model, x[:2], {"0": [1, 2, 3, 4, 5]})
    job = cut.job([x], chunk=8)
    Recalibrate().run(job)
    assert "->" in job.notes[0] and "undone" not in job.notes[0]
    fit = [call.args[0] for call in job.calibration.fit]
    with torch.no_grad():
        values = [cut.small[0](part) for part in fit]
        mean = torch.stack([v.mean((0, 2, 3)) for v in values]).mean(0)
        variance = torch.stack([v.var((0, 2, 3)) for v in values]).mean(0)
    torch.testing.assert_close(cut.small[1].running_mean, mean)
    torch.testing.assert_close(cut.small[1].running_var, variance)
    assert cut.small[1].momentum == 1.0 and not cut.small[1].training


def test_what_does_not_help_is_undone() -> None:
    model, x = net(), torch.randn(40, 3, 6, 6)
    cut = shrink(model, x[:2], {})
    before = {key: value.clone() for key, value in cut.small.state_dict().items()}
    job = cut.job([x])
    Recalibrate().run(job)
    assert job.notes == [job.notes[0]] and "undone" in job.notes[0]
    assert all(torch.equal(value, before[key]) for key, value in cut.small.state_dict().items())


def test_many_calls_in_vain_are_not_all_run() -> None:
    model, x = net(), torch.randn(160, 3, 6, 6)  # its statistics are not those of the data
    cut = shrink(model, x[:2], {"0": [1, 2, 3, 4, 5, 6, 7]})
    ran: list[int] = []
    hook = cut.small[0].register_forward_hook(lambda m, a, y: ran.append(len(y)))
    job = cut.job([x], chunk=4)
    before = {key: value.clone() for key, value in cut.small.state_dict().items()}
    held, fit, started = len(job.calibration.held), len(job.calibration.fit), len(ran)
    Recalibrate().run(job)
    hook.remove()
    assert "undone" in job.notes[0]
    assert len(ran) - started == fit // 4 + 2 * held
    assert all(torch.equal(value, before[key]) for key, value in cut.small.state_dict().items())


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn, self.idle = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.idle(self.bn(self.fc(x))) if len(x) == 999 else self.bn(self.fc(x)))


def test_norms_that_no_data_reaches_keep_their_statistics() -> None:
    model, x = unsettle(Unused()), torch.randn(40, 4)
    cut = shrink(model, x, {})
    with torch.no_grad():
        cut.small.fc.bias.add_(3)
        idle = cut.small.idle.running_mean.clone()
    job = cut.job([x])
    Recalibrate().run(job)
    assert "undone" not in job.notes[0]
    assert torch.equal(cut.small.idle.running_mean, idle)
    assert not torch.equal(cut.small.bn.running_mean, model.bn.running_mean)


def test_one_sample_is_too_few() -> None:
    model, x = unsettle(Unused()), torch.randn(40, 4)
    cut = shrink(model, x, {})
    before = {key: value.clone() for key, value in cut.small.state_dict().items()}
    job = cut.job([x[:1]])
    Recalibrate().run(job)
    assert job.notes == ["batch-norm statistics: too few samples to measure any, unchanged"]
    assert all(torch.equal(value, before[key]) for key, value in cut.small.state_dict().items())


def test_a_model_without_norms_has_nothing_to_measure() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(20, 4)
    job = shrink(model, x, {}).job([x])
    Recalibrate().run(job)
    assert job.notes == []
