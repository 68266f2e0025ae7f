"""Which way single weights go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.api.single import prune_single
from secateur.core.errors import RecipeError
from secateur.units import NM


def test_a_stream_resumes_from_a_folder_only() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(RecipeError, match="resumes from a folder"):
        prune_single(net, torch.ones(1, 4), NM(), in_place=True, stream="blocks", resume=[1])


def test_all_at_once_and_by_blocks() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(20, 4)
    whole = prune_single(net, None, NM(), in_place=False, data=[x], latency=False)
    blocks = prune_single(net, None, NM(), in_place=False, data=[x], stream="blocks")
    assert whole.masks.keys() == blocks.masks.keys() == {"0.weight", "1.weight"}
