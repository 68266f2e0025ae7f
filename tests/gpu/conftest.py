"""Tests on a CUDA GPU: `pytest tests/gpu` on a machine that has one; elsewhere each is skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # makes `cuda_nets` importable


@pytest.fixture(autouse=True)
def cuda() -> Iterator[None]:
    """The same numbers every time, and as precise on the GPU as on the CPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.manual_seed(0)
    yield
    assert torch.get_default_device().type == "cpu"
