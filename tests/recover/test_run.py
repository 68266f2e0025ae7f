"""Repairs in order, with a line for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from repair_nets import Residual, shrink, unsettle

from secateur.core.errors import RecipeError
from secateur.measure.calibration import calibration
from secateur.recover import Job, Recalibrate, Reconstruct, check_steps, repair


class Says:
    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, job: Job) -> None:
        job.note(f"{self.text} {job.seed}")


def test_steps_run_in_order_and_say_what_they_did() -> None:
    model, x = unsettle(Residual(blocks=1)), torch.randn(30, 3, 8, 8)
    cut = shrink(model, x[:2], {"blocks.0.conv1": [0, 1, 2, 3]})
    steps = [Says("first"), Recalibrate(), Reconstruct(), Says("last")]
    lines = repair(
        model, cut.small, cut.plan, cut.graph.roles, calibration(model, [x]), steps, seed=7
    )
    assert lines[0] == "first 7" and lines[-1] == "last 7"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "batch-norm statistics",
        "least squares",
    ]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("reconstruct", r"recover='reconstruct': expected a list of repairs"),
        (Reconstruct(), "expected a list of repairs"),
        ([Reconstruct], "is not a repair"),
        ([Recalibrate(), 3], "3 is not a repair"),
    ],
)
def test_what_is_no_repair_is_refused_before_anything_is_done(steps: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_steps(steps)


def test_no_steps_are_fine() -> None:
    check_steps([])
    check_steps((Says("a"),))
