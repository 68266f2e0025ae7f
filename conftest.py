"""What every test and every example in a docstring finds: fixed seeds, and the usual names."""

from __future__ import annotations

from typing import Any

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
