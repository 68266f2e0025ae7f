"""Integers are read and written wherever models keep them."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from secateur.core import paths
from secateur.core.errors import StalePlan

Pair = namedtuple("Pair", "a b")


def owner() -> SimpleNamespace:
    return SimpleNamespace(
        n=3,
        sizes=[4, (5, 6)],
        config=SimpleNamespace(width=7),
        table={"k": 8},
        pair=Pair(1, 9),
        shape=torch.Size([2, 10]),
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("n", 3), ("sizes.0", 4), ("sizes.1.1", 6), ("config.width", 7), ("table.k", 8),
        ("pair.1", 9), ("shape.1", 10),
    ],
)  # fmt: skip
def test_read_then_write(path: str, value: int) -> None:
    holder = owner()
    assert paths.read(holder, path) == value
    paths.write(holder, path, 100)
    assert paths.read(holder, path) == 100


def test_tuples_keep_their_type() -> None:
    holder = owner()
    paths.write(holder, "pair.0", 5)
    paths.write(holder, "shape.0", 5)
    assert holder.pair == Pair(5, 9) and isinstance(holder.pair, Pair)
    assert isinstance(holder.shape, torch.Size)


@pytest.mark.parametrize("path", ["missing", "sizes.7", "config.height", "table.z", "n.x"])
def test_a_missing_path_means_another_model(path: str) -> None:
    with pytest.raises(StalePlan, match="hint:"):
        paths.read(owner(), path)
