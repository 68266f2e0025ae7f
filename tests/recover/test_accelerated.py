"""Accelerate comes and goes without a trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, is_initialized
from torch import nn

from secateur.core.errors import RecipeError
from secateur.recover import accelerated
from secateur.recover.accelerated import accelerator, device_of, draw_from, own_draws


def test_its_state_is_taken_away_again() -> None:
    with accelerator(nn.Linear(2, 2), "bf16") as engine:
        assert engine.mixed_precision == "bf16" and engine.device.type == "cpu"
        assert engine.num_processes == 1
    assert not is_initialized()
    with accelerator(nn.Linear(2, 2)) as engine:
        assert engine.mixed_precision == "no"


def test_a_users_own_is_respected() -> None:
    own = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        with accelerator(nn.Linear(2, 2)) as engine:
            assert engine.mixed_precision == "bf16"
        assert is_initialized() and own.mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_without_it_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'secateur\[train\]'"):
        accelerated.require_accelerate("Finetune")


def test_draws_are_of_the_seed_and_put_back() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = draw()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    found = []
    for _ in range(2):
        with own_draws(7, torch.device("cpu")):
            draw_from(7, 1)
            found.append(draw())
    assert found[0] == found[1] != expected == draw()


def test_where_a_model_is() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"
