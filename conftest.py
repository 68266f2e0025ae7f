"""What every test and every example in a docstring finds: fixed seeds, and the usual names."""

from __future__ import annotations

import os
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, of PyTorch's and of what tests start
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from torch import nn

import secateur


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(sc=secateur, torch=torch, nn=nn)
