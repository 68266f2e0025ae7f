"""Columns of consumers, by hand."""

from __future__ import annotations

import torch

from secateur.core.layout import Concat, Fixed, Leaf, Product
from secateur.core.site import Site, Slice
from secateur.measure.linear import Spec
from secateur.score.consumers import columns, consumers, positions

A, B = Leaf("a", 2), Leaf("b", 3)


def listed(found: torch.Tensor | None) -> list[list[int]] | None:
    return None if found is None else found.tolist()


def test_positions_of_an_index() -> None:
    both = Product((A, B))
    assert listed(positions(B, "b", 3, 1, 3)) == [[0], [1], [2]]
    assert listed(positions(both, "a", 2, 1, 6)) == [[0, 1, 2], [3, 4, 5]]
    assert listed(positions(both, "b", 3, 1, 6)) == [[0, 3], [1, 4], [2, 5]]
    assert listed(positions(Concat((A, Fixed(1), A)), "a", 2, 1, 5)) == [[0, 3], [1, 4]]


def test_positions_in_groups() -> None:
    both = Product((A, B))
    assert listed(positions(both, "b", 3, 2, 3)) == [[0], [1], [2]]  # the same in both groups
    assert positions(both, "a", 2, 2, 3) is None  # whole groups
    assert positions(both, "b", 3, 1, 5) is None  # of another size
    assert positions(Fixed(3), "b", 3, 1, 3) is None


def test_columns_are_taps_of_positions() -> None:
    spec = Spec("w", None, "conv", kernel=(2, 1))
    where = Site("b", "channel", 3, (Slice("w", 1, B, "in"), Slice("v", 1, B, "in")))
    assert listed(columns(where.slices[0], spec, where, 3, 2)) == [[0, 1], [2, 3], [4, 5]]
    assert columns(Slice("w", 0, B, "in"), spec, where, 3, 2) is None
    assert [part.tensor for part in consumers(where, {"v"})] == ["v"]
