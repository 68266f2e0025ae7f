"""Pooling of element scores onto indices."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.layout import Concat, Fixed, Leaf, Product
from secateur.core.site import Site, Slice, pool_vector

HEADS, DIM = Leaf("heads", 2), Leaf("dim", 3)


def test_pool_vector_sums_what_every_index_owns() -> None:
    vector = torch.arange(8.0)
    layout = Concat((Fixed(2), Product((HEADS, DIM))))
    assert pool_vector(vector, layout, "heads", 2).tolist() == [2 + 3 + 4, 5 + 6 + 7]
    assert pool_vector(vector, layout, "dim", 3).tolist() == [2 + 5, 3 + 6, 4 + 7]
    assert pool_vector(vector, layout, "other", 4).tolist() == [0] * 4


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from(["out", "in"]))
def test_pool_agrees_with_a_loop(n: int, width: int, role: str) -> None:
    leaf, weight = Leaf("s", n), torch.randn(width, n, 2)
    site = Site("s", "channel", n, (Slice("w", 1, leaf, role), Slice("b", 0, leaf, "shift")))  # type: ignore[arg-type]
    found = site.pool({"w": weight, "b": torch.ones(n)}, lambda _, w: w.abs(), {role})
    expected = torch.tensor(
        [sum(abs(float(x)) for x in weight[:, k].reshape(-1)) for k in range(n)]
    )
    torch.testing.assert_close(found, expected)


def test_pool_of_nothing_is_zero() -> None:
    site = Site("s", "channel", 3, (Slice("w", 0, Leaf("s", 3), "in"),))
    assert site.pool({"w": torch.ones(3)}, lambda _, w: w, {"out"}).tolist() == [0, 0, 0]
    assert site.pool({}, lambda _, w: w, {"in"}).tolist() == [0, 0, 0]


def test_half_precision_is_summed_in_single() -> None:
    site = Site("s", "channel", 1, (Slice("w", 0, Leaf("s", 1), "out"),))
    weight = torch.full((1, 4096), 100.0, dtype=torch.float16)
    found = site.pool({"w": weight}, lambda _, w: w, {"out"})
    assert found.dtype == torch.float32
    assert found.item() == 409600


def test_double_precision_stays() -> None:
    site = Site("s", "channel", 2, (Slice("w", 0, Leaf("s", 2), "out"),))
    assert site.pool({"w": torch.ones(2).double()}, lambda _, w: w, {"out"}).dtype == torch.float64
