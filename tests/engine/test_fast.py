from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.engine import fast


def test_operations_outlive_no_network() -> None:
    with pytest.raises(sc.SecateurError, match="no compiled network"):
        torch.ops.secateur.fast([torch.zeros(1)], 10**9)


def test_networks_are_not_kept_alive(tmp_path: Path) -> None:
    network = sc.compile(nn.Linear(2, 2), torch.zeros(1, 2), cache=tmp_path)
    assert isinstance(network, fast.Fast)
    number = network._number
    assert fast._alive[number] is network
    del network
    gc.collect()
    assert number not in fast._alive
