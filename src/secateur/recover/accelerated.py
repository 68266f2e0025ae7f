"""Accelerate, where it is installed: one process, several, or sharded, by the same calls."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RecipeError

if TYPE_CHECKING:
    from accelerate import Accelerator


def require_accelerate(name: str) -> None:
    """Raise `RecipeError` unless Accelerate is installed."""
    if find_spec("accelerate") is None:
        raise RecipeError(
            f"{name} trains with Hugging Face Accelerate, which is not installed",
            hint="pip install 'secateur[train]', or give your own trainer: Finetune(fit)",
        )


@contextmanager
def accelerator(model: nn.Module, precision: str | None = None) -> Iterator[Accelerator]:
    """An `Accelerator` for one training; what it leaves in the process is taken away again.

    A single process trains where the model is. Processes started by `accelerate launch` or
    `torchrun` train on the devices that they were given, else on the CPU. Where the user's program
    has made an `Accelerator` of its own, its state is the one that counts.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, is_initialized

    mine = not is_initialized()
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = device_of(model).type == "cpu" and not (launched and torch.accelerator.is_available())
    found = Accelerator(
        mixed_precision=precision, device_placement=launched, cpu=cpu if mine else False
    )
    try:
        yield found
    finally:
        found.free_memory()
        if mine and found.num_processes == 1:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters are."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed inside; all random states are put back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    index = [torch.accelerator.current_device_index()] if device.type != "cpu" else []
    kind = device.type if device.type != "cpu" else "cuda"
    with torch.random.fork_rng(devices=index, device_type=kind):
        try:
            draw_from(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def draw_from(*seeds: int) -> None:
    """Start all random numbers from a mix of seeds."""
    seed = 0
    for part in seeds:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
