"""Repair without data: on noise, with norms that fit it for the time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from repair_nets import Recurrent, Residual, shrink, unsettle
from torch import Tensor, nn

from secateur.core.batches import as_call
from secateur.recover import Job, Recalibrate, Reconstruct, repair
from secateur.recover.distance import distance, outputs
from secateur.recover.imagine import imagined


def settled(x: Tensor) -> nn.Module:
    """A network whose norms have the statistics of the data."""
    model = unsettle(Residual(blocks=2))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    return model.eval()


def images(n: int) -> Tensor:
    """Smooth images with means and deviations of their own."""
    x = nn.functional.avg_pool2d(torch.randn(n, 3, 14, 14), 7, 1)
    return 9 * x * torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1) + torch.tensor([3.0, 1, 0]).view(
        3, 1, 1
    )


GONE = {"blocks.0.conv1": [1, 2, 5], "blocks.1.conv1": [0, 7, 3], "stem": [4]}


def without_data(model: nn.Module, example: Any, gone: Any = None) -> Any:
    cut = shrink(model, example, GONE if gone is None else gone)
    return cut, replace(cut.plan, example=as_call(model, example))


def test_least_squares_without_data_brings_the_network_closer_on_data() -> None:
    torch.manual_seed(0)
    x = images(60)
    model = settled(x)
    cut, plan = without_data(model, torch.zeros(1, 3, 8, 8))
    calls = [as_call(model, x)]
    dense, before = (
        outputs(model, calls),
        distance(outputs(model, calls), outputs(cut.small, calls)),
    )
    lines = repair(model, cut.small, plan, cut.graph.roles, None, [Reconstruct()])
    assert distance(dense, outputs(cut.small, calls)) < 0.5 * before
    assert len(lines) == 1 and lines[0].startswith("least squares: distance from the dense outputs")
    assert lines[0].endswith("(on 256 samples of 1/f^1.5 noise)")


def test_norms_pass_on_what_they_pass_on_real_data() -> None:
    """While noise is used, results of norms have their own means (beta) and deviations (gamma)."""
    torch.manual_seed(0)
    model = settled(images(60))
    cut, plan = without_data(model, torch.zeros(1, 3, 8, 8))
    job = Job(model, cut.small, plan, cut.graph.roles, None)
    seen: list[Tensor] = []
    with imagined(job) as made:
        assert made is not None and made.calibration is not None
        norm = made.dense.blocks[1].bn1
        handle = norm.register_forward_hook(lambda module, args, out: seen.append(out))
        for call in made.calibration.calls:
            outputs(made.dense, [call])
        handle.remove()
        kept = [k for k in range(8) if k not in GONE["blocks.1.conv1"]]
        small = made.small.blocks[1].bn1
        torch.testing.assert_close(small.running_mean, norm.running_mean[kept])
        torch.testing.assert_close(small.running_var, norm.running_var[kept])
    rows = torch.cat(seen).transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(1), model.blocks[1].bn1.bias.detach(), atol=0.15, rtol=0)
    torch.testing.assert_close(rows.std(1), model.blocks[1].bn1.weight.detach(), atol=0.15, rtol=0)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_statistics_come_back_with_the_changes_that_repairs_made(error: Any) -> None:
    torch.manual_seed(0)
    model = settled(images(60))
    cut, plan = without_data(model, torch.zeros(1, 3, 8, 8))
    before = {key: value.clone() for key, value in cut.small.state_dict().items()}
    whole = {key: value.clone() for key, value in model.state_dict().items()}
    job = Job(model, cut.small, plan, cut.graph.roles, None)
    try:
        with imagined(job) as made:
            assert made is not None
            with torch.no_grad():
                made.small.blocks[0].bn1.running_mean += 2
            if error is not None:
                raise error
    except KeyboardInterrupt:
        pass
    for key, value in cut.small.state_dict().items():
        added = 2 if key == "blocks.0.bn1.running_mean" else 0
        torch.testing.assert_close(value, before[key] + added)
    assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())


def test_series_are_made_up_too() -> None:
    torch.manual_seed(0)
    model = Recurrent(nn.GRU)
    cut, plan = without_data(model, torch.zeros(1, 9, 5), {"rnn.weight_ih_l0": [1, 4, 5]})
    calls = [as_call(model, torch.randn(60, 9, 5))]
    before = distance(outputs(model, calls), outputs(cut.small, calls))
    repair(model, cut.small, plan, cut.graph.roles, None, [Reconstruct()])
    assert distance(outputs(model, calls), outputs(cut.small, calls)) < 0.7 * before


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.fc1, self.fc2 = nn.Embedding(7, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(self.table(ids))))


def test_tokens_are_not_made_up() -> None:
    ids = torch.zeros(2, 5, dtype=torch.long)
    cut, plan = without_data(Tokens(), ids, {"fc1": [1, 2]})
    before = {key: value.clone() for key, value in cut.small.state_dict().items()}
    lines = repair(
        cut.dense, cut.small, plan, cut.graph.roles, None, [Reconstruct(), Recalibrate()]
    )
    assert len(lines) == 1 and lines[0].startswith("no repair on made-up data: inputs are integers")
    assert all(torch.equal(value, before[key]) for key, value in cut.small.state_dict().items())
    nothing = repair(
        cut.dense, cut.small, replace(plan, example=None), cut.graph.roles, None, [Reconstruct()]
    )
    assert nothing == ("no repair on made-up data: no example",)


def test_without_data_new_statistics_are_not_measured() -> None:
    torch.manual_seed(0)
    model = settled(images(20))
    cut, plan = without_data(model, torch.zeros(1, 3, 8, 8))
    lines = repair(model, cut.small, plan, cut.graph.roles, None, [Recalibrate()])
    assert lines == ("batch-norm statistics: there is no data to measure them on",)
