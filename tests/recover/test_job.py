"""Only what helps on held-out data stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from repair_nets import shrink
from torch import nn

from secateur.recover import Job
from secateur.recover.distance import distance, outputs


def job() -> tuple[Job, nn.Module]:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    cut = shrink(model, torch.randn(2, 4), {"0": [1, 2, 6]})
    return cut.job([torch.randn(30, 4)]), cut.small


def state(model: nn.Module) -> dict[str, Any]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def add(model: nn.Module, amount: Any) -> Callable[[], object]:
    def change() -> None:
        with torch.no_grad():
            model[3].bias += amount  # type: ignore[index]
            model[1].num_batches_tracked += 1  # type: ignore[index]

    return change


def test_the_start_is_measured_on_held_out_data() -> None:
    found, small = job()
    held = found.calibration.held
    assert found.distance == distance(outputs(found.dense, held), outputs(small, held)) > 0


def test_what_helps_stays_and_what_does_not_goes() -> None:
    found, small = job()
    with torch.no_grad():
        x = torch.cat([call.args[0] for call in found.calibration.held])
        lacking = (found.dense(x) - small(x)).mean(0)
    kept = []
    for amount in (lacking, lacking * 30, lacking * 0):
        before, start = state(small), found.distance
        stays = found.attempt("a try", add(small, amount))
        kept.append(stays)
        held = found.calibration.held
        assert found.distance == distance(outputs(found.dense, held), outputs(small, held))
        if stays:
            assert found.distance < start and "->" in found.notes[-1]
        else:
            assert found.distance == start and "no help on held-out data" in found.notes[-1]
            assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert kept == [True, False, False] and len(found.notes) == 3


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_takes_the_change_back(kind: type[BaseException]) -> None:
    found, small = job()
    before = state(small)

    def change() -> None:
        add(small, 1.0)()
        raise kind

    with pytest.raises(kind):
        found.attempt("a try", change)
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert found.notes == []


def test_outputs_that_are_not_numbers_are_no_help() -> None:
    found, small = job()
    before = state(small)
    assert not found.attempt("a try", add(small, float("nan")))
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
