from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.api.bench import bench, zeroed


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(), nn.Linear(256, 4)
    ).eval()


def test_zeros_where_they_belong() -> None:
    model = net()
    twin = zeroed(model, 0.75)
    shares = [float((p == 0).float().mean()) for p in twin.parameters() if p.dim() > 1]
    assert shares == pytest.approx([0.75, 0, 0.75])
    assert all(bool((p != 0).any()) for p in model.parameters())
    kept = twin[0].weight != 0
    assert model[0].weight[~kept].abs().max() <= model[0].weight[kept].abs().min()


def test_table(tmp_path: Path) -> None:
    found = bench(
        net(), torch.randn(1, 8, 8, 8), (0.5, 0.9), engines=("eager", "channels_last"),
        min_time=0.01, cache=tmp_path,
    )  # fmt: skip
    assert set(found.peers) == {"eager", "channels_last"}
    assert set(found.levels) == set(found.ratios) == {0.5, 0.9}
    assert "secateur, 90% zero" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["best"] == found.best[0]


@pytest.mark.parametrize("share", [(), (1.0,), (-0.1,)])
def test_shares_that_make_no_sense(share: tuple[float, ...]) -> None:
    with pytest.raises(sc.errors.RecipeError):
        bench(net(), torch.randn(1, 8, 8, 8), share)
