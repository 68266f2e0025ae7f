"""Settings of a training, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from secateur.core.errors import RecipeError
from secateur.recover.course import Course


def test_length() -> None:
    assert Course().length(8) == 8 and Course(epochs=3).length(8) == 24
    assert Course(steps=5).length(8) == 5


@pytest.mark.parametrize(("schedule", "half"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1)])
def test_learning_rate(schedule: Any, half: float) -> None:
    course = Course(schedule=schedule, warmup=0.1)
    values = [course.factor(step, 100) for step in range(100)]
    assert values[:10] == sorted(values[:10]) and values[0] > 0 and values[10] == 1
    assert values[55] == pytest.approx(half, abs=0.01)
    assert values[10:] == sorted(values[10:], reverse=True) and values[-1] > 0


def test_a_schedule_of_ones_own() -> None:
    course = Course(schedule=lambda step, steps: step / steps, warmup=0)
    assert course.factor(25, 100) == 0.25


def test_optimizers() -> None:
    weights = list(nn.Linear(2, 2).parameters())
    made = Course(lr=0.5).make_optimizer(weights)
    assert isinstance(made, AdamW) and made.param_groups[0]["lr"] == 0.5
    assert isinstance(Course(optimizer=lambda p: SGD(p, lr=0.1)).make_optimizer(weights), SGD)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 1, "steps": 2}, "epochs= and steps="),
        ({"epochs": 0}, "an integer of at least 1"),
        ({"steps": 1.5}, "an integer of at least 1"),
        ({"accumulate": True}, "an integer of at least 1"),
        ({"patience": 0}, "an integer of at least 1"),
        ({"lr": 0}, "above 0"),
        ({"clip": float("inf")}, "above 0"),
        ({"warmup": 1}, "0 <= warmup < 1"),
        ({"optimizer": lambda p: None, "lr": 1.0}, "optimizer= and lr="),
        ({"optimizer": SGD([torch.zeros(1)], lr=1)}, "other parameters"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"precision": "fp8"}, "expected 'bf16' or 'fp16'"),
    ],
)
def test_what_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Course(**settings)
