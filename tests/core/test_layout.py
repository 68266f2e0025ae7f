"""The layout algebra against brute-force enumeration of positions."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.layout import Concat, Fixed, Layout, Leaf, Mask, Product

SIZES = {"a": 2, "b": 3, "c": 5}
Position = frozenset[tuple[str, int]]

LEAVES = st.sampled_from([Leaf(name, n) for name, n in SIZES.items()])
LAYOUTS = st.recursive(
    LEAVES | st.builds(Fixed, st.integers(1, 3)),
    lambda inner: st.builds(
        lambda kind, parts: kind(tuple(parts)),
        st.sampled_from([Product, Concat]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
).filter(lambda layout: layout.size <= 2000)
MASKS = st.fixed_dictionaries(
    {name: st.lists(st.booleans(), min_size=n, max_size=n) for name, n in SIZES.items()}
).map(lambda found: {name: np.array(bits, dtype=bool) for name, bits in found.items()})


def positions(layout: Layout) -> list[Position]:
    """For every position, in order, the (leaf, index) pairs that it needs."""
    if isinstance(layout, Leaf):
        return [frozenset({(layout.name, i)}) for i in range(layout.n)]
    if isinstance(layout, Concat):
        return [position for part in layout.parts for position in positions(part)]
    if isinstance(layout, Product):
        return [frozenset().union(*each) for each in product(*map(positions, layout.parts))]
    return [frozenset()] * layout.size


def read(value: Any) -> Layout:
    """A layout from its JSON."""
    if isinstance(value, int):
        return Fixed(value)
    if isinstance(value, str):
        return Leaf(value, SIZES[value])
    [(kind, parts)] = value.items()
    return {"product": Product, "concat": Concat}[kind](tuple(map(read, parts)))


@settings(deadline=None)
@given(LAYOUTS, MASKS)
def test_a_position_stays_when_every_index_that_it_needs_stays(
    layout: Layout, masks: dict[str, Mask]
) -> None:
    expected = [all(masks[name][i] for name, i in each) for each in positions(layout)]
    kept = layout.keep(masks)
    assert kept.dtype == np.bool_
    assert kept.tolist() == expected


@settings(deadline=None)
@given(LAYOUTS, MASKS)
def test_count_is_how_many_positions_stay(layout: Layout, masks: dict[str, Mask]) -> None:
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    assert layout.count(counts) == int(layout.keep(masks).sum())


@settings(deadline=None)
@given(LAYOUTS)
def test_without_decisions_everything_stays(layout: Layout) -> None:
    assert layout.size == len(positions(layout)) == layout.count({})
    assert layout.keep({}).all()
    assert layout.keep({}).shape == (layout.size,)


@settings(deadline=None)
@given(LAYOUTS, st.sampled_from(sorted(SIZES)))
def test_coordinate_is_the_index_of_the_leaf_at_every_position(layout: Layout, leaf: str) -> None:
    expected = [
        max((i for name, i in each if name == leaf), default=-1) for each in positions(layout)
    ]
    found = layout.coordinate(leaf)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@settings(deadline=None)
@given(LAYOUTS, st.sampled_from(sorted(SIZES)), st.data())
def test_removing_one_index_removes_exactly_its_positions(
    layout: Layout, leaf: str, data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, SIZES[leaf] - 1))
    mask = np.arange(SIZES[leaf]) != gone
    owned = np.array([(leaf, gone) in each for each in positions(layout)], dtype=bool)
    assert (~layout.keep({leaf: mask}) == owned).all()


@settings(deadline=None)
@given(LAYOUTS)
def test_names_are_those_of_the_leaves(layout: Layout) -> None:
    assert layout.names == {leaf.name for leaf in layout.leaves()}
    assert layout.names == {name for each in positions(layout) for name, _ in each}


@settings(deadline=None)
@given(LAYOUTS)
def test_json_says_all(layout: Layout) -> None:
    assert read(json.loads(json.dumps(layout.to_json()))) == layout


@settings(deadline=None)
@given(LAYOUTS, LAYOUTS)
def test_layouts_are_values(left: Layout, right: Layout) -> None:
    assert (left == right) == (left.to_json() == right.to_json())
    assert hash(left) == hash(read(left.to_json()))


@settings(deadline=None)
@given(MASKS)
def test_a_concatenation_in_a_product_is_a_concatenation_of_products(
    masks: dict[str, Mask],
) -> None:
    a, b, c = (Leaf(name, n) for name, n in SIZES.items())
    outside = Product((Concat((a, b)), c))
    inside = Concat((Product((a, c)), Product((b, c))))
    assert (outside.keep(masks) == inside.keep(masks)).all()


def test_an_lstm_gate_axis_keeps_the_same_units_of_every_gate() -> None:
    hidden = Leaf("h", 3)
    gates = Concat((hidden,) * 4)
    kept = gates.keep({"h": np.array([True, False, True])})
    assert np.flatnonzero(kept).tolist() == [0, 2, 3, 5, 6, 8, 9, 11]


@pytest.mark.parametrize("layout", [Fixed(0), Leaf("x", 0)])
def test_an_empty_axis_is_empty(layout: Layout) -> None:
    assert layout.size == 0
    assert layout.keep({}).shape == (0,)
