"""The axis algebra against explicit masks: what was done to axes must hold for every mask."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.core.layout import Mask
from secateur.core.plan import Reason
from secateur.graph.analyze import _Builder
from secateur.graph.axes import GEOMETRY, Axis, concat, factor, fixed, product, split, unify
from secateur.graph.ties import Solution

WHY = Reason("because")
KINDS = ["leaf", "product", "concat", "split", "factor", "unify", "twin product", "twin concat"]
KINDS = [*KINDS * 3, "freeze"]


def kron(masks: list[Mask]) -> Mask:
    return reduce(
        lambda a, b: np.logical_and.outer(a, b).reshape(-1), masks, np.ones(1, dtype=bool)
    )


def joined(masks: list[Mask]) -> Mask:
    return np.concatenate([np.zeros(0, dtype=bool), *masks])


@dataclass
class Simulation:
    """Axes, and what each operation promised about their masks when it was done."""

    axes: list[Axis] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    promises: list[tuple[str, list[Axis], list[Axis]]] = field(default_factory=list)
    frozen: list[Axis] = field(default_factory=list)

    def add(self, *axes: Axis) -> None:
        for axis in axes:
            if 1 <= axis.size <= 400:
                self.axes.append(axis)
                self.sizes.append(axis.size)

    def step(self, draw: Any) -> None:
        kind = draw(st.sampled_from(KINDS))
        pick = st.sampled_from(self.axes) if self.axes else None
        if kind == "leaf" or pick is None:
            self.add(Axis(draw(st.sampled_from([1, 2, 4, 4, 6, 12]))))
        elif kind in ("product", "concat"):
            parts = draw(st.lists(pick, min_size=1, max_size=3))
            made = product(parts) if kind == "product" else concat(parts)
            self.promises.append((kind, parts, [made]))
            self.add(made)
        elif kind == "split":
            axis = draw(pick)
            sizes = self.pieces(draw, axis.size)
            self.keep_promise("concat", axis, split(axis, sizes), sizes)
        elif kind == "factor":
            axis = draw(pick)
            sizes = self.factors(draw, axis.size)
            self.keep_promise("product", axis, factor(axis, sizes), sizes)
        elif kind in ("twin product", "twin concat"):  # the same size, made of other parts
            axis = draw(pick)
            several = kind == "twin product"
            parts = [Axis(n) for n in (self.factors if several else self.pieces)(draw, axis.size)]
            other = product(parts) if several else concat(parts)
            self.add(*parts, other)
            unify(axis, other)
            self.promises.append((kind.removeprefix("twin "), parts, [axis]))
        elif kind == "unify":
            axis = draw(pick)
            other = draw(st.sampled_from([b for b in self.axes if b.size == axis.size]))
            unify(axis, other)
            self.promises.append(("product", [axis], [other]))
        else:
            axis = draw(pick)
            axis.freeze(WHY)
            self.frozen.append(axis)

    def keep_promise(
        self, kind: str, axis: Axis, parts: list[Axis] | None, sizes: list[int]
    ) -> None:
        if parts is None:
            return
        assert [part.size for part in parts] == sizes
        self.promises.append((kind, parts, [axis]))
        self.add(*parts)

    @staticmethod
    def pieces(draw: Any, size: int) -> list[int]:
        cuts = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
        return [b - a for a, b in zip([0, *cuts], [*cuts, size], strict=True) if b > a]

    @staticmethod
    def factors(draw: Any, size: int) -> list[int]:
        found = []
        while size > 1 and len(found) < 3:
            divisors = [d for d in range(1, size + 1) if size % d == 0]
            found.append(draw(st.sampled_from(divisors)))
            size //= found[-1]
        return [*found, size]

    def check(self, rng: np.random.Generator) -> None:
        assert [axis.find().size for axis in self.axes] == self.sizes
        leaves = {leaf for axis in self.axes for leaf in axis.leaves()}
        masks = {
            leaf: np.ones(leaf.size, dtype=bool)
            if leaf.frozen or leaf.size == 1
            else rng.random(leaf.size) < 0.6
            for leaf in leaves
        }

        def mask(axis: Axis) -> Mask:
            axis = axis.find()
            if not axis.kind:
                return masks[axis]
            parts = [mask(part) for part in axis.parts]
            return kron(parts) if axis.kind == "product" else joined(parts)

        for kind, parts, made in self.promises:
            whole = (
                kron([mask(p) for p in parts])
                if kind == "product"
                else joined([mask(p) for p in parts])
            )
            assert np.array_equal(whole, mask(made[0]))
        for axis in self.frozen:
            assert mask(axis).all() and not axis.free
        names = {leaf: str(leaf.id) for leaf in leaves}
        free = {leaf: 1 for leaf in leaves if leaf.frozen is None and leaf.size > 1}
        builder = _Builder(None, None, names, Solution([({leaf: 1}, [leaf.size]) for leaf in free]))  # type: ignore[arg-type]
        keeps = {names[leaf]: masks[leaf] for leaf in free}
        for axis in self.axes:
            layout = builder.layout(axis)
            assert layout.size == axis.size
            assert np.array_equal(layout.keep(keeps), mask(axis))
            assert layout.count({n: int(m.sum()) for n, m in keeps.items()}) == mask(axis).sum()


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(st.data())
def test_every_promise_holds_for_every_mask(data: st.DataObject) -> None:
    simulation = Simulation()
    for _ in range(data.draw(st.integers(2, 12))):
        simulation.step(data.draw)
    for seed in range(3):
        simulation.check(np.random.default_rng(seed))


def test_products_and_concatenations_are_flat() -> None:
    a, b, c = Axis(2), Axis(3), Axis(4)
    assert product([product([a, b]), c]).parts == (a, b, c)
    assert concat([concat([a, b]), c]).parts == (a, b, c)
    assert product([a]) is a and concat([a]) is a
    assert product([Axis(1), a, Axis(1)]) is a and concat([Axis(0), a]) is a
    assert product([]).size == 1 and concat([]).size == 0


def test_unify_makes_one_of_two_leaves() -> None:
    a, b = Axis(6), Axis(6)
    unify(a, b)
    assert a.find() is b.find()
    unify(b, a)
    assert a.find() is b.find()


def test_unify_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="cannot unify axes of 2 and 3"):
        unify(Axis(2), Axis(3))


def test_unify_ignores_single_indices() -> None:
    a, b = Axis(1), Axis(1)
    unify(a, b)
    assert a.find() is not b.find()


def test_unify_refines_products_to_common_factors() -> None:
    a, b, c, d = Axis(4), Axis(3), Axis(2), Axis(6)
    unify(product([a, b]), product([c, d]))
    assert [leaf.size for leaf in a.leaves()] == [2, 2]
    assert a.leaves()[0] is c.find()
    assert d.leaves() == [a.leaves()[1], b.find()]
    assert not any(leaf.frozen for leaf in [*a.leaves(), *d.leaves()])


def test_unify_freezes_products_that_do_not_line_up() -> None:
    a, b = product([Axis(2), Axis(3)]), product([Axis(3), Axis(2)])
    unify(a, b)
    assert not a.free and not b.free
    assert "different factors" in str(a.leaves()[0].frozen)


def test_unify_moves_the_seams_of_concatenations() -> None:
    a, b, c, d = Axis(2), Axis(4), Axis(3), Axis(3)
    unify(concat([a, b]), concat([c, d]))
    assert [leaf.size for leaf in c.leaves()] == [2, 1]
    assert c.leaves()[0] is a.find()
    assert [leaf.size for leaf in b.leaves()] == [1, 3]


def test_gates_unify_with_one_hidden_axis() -> None:
    rows, hidden = Axis(12), Axis(3)
    for gate in split(rows, [3, 3, 3, 3]) or []:
        unify(gate, hidden)
    assert {leaf.find() for leaf in rows.leaves()} == {hidden.find()}
    assert repr(rows).count("[3]") == 4


def test_split_of_a_product_runs_along_its_first_factor() -> None:
    heads, dim = Axis(6), Axis(4)
    pieces = split(product([heads, dim]), [8, 16])
    assert pieces is not None
    assert [leaf.size for leaf in pieces[0].leaves()] == [2, 4]
    assert pieces[0].leaves()[1] is dim.find()
    assert split(product([Axis(6), Axis(4)]), [6, 18]) is None


def test_factor_of_a_concatenation_needs_one_inner_axis() -> None:
    whole = concat([Axis(4), Axis(6)])
    found = factor(whole, [5, 2])
    assert found is not None
    assert found[0].kind == "concat" and [part.size for part in found[0].parts] == [2, 3]
    assert found[1].size == 2
    assert {leaf.find() for leaf in whole.leaves()} >= {found[1].find()}


def test_factor_that_crosses_the_seams_counts_rows_only() -> None:
    found = factor(concat([Axis(3), Axis(3)]), [2, 3])
    assert found is not None and found[1].size == 3
    found = factor(concat([Axis(1), Axis(5)]), [2, 3])
    assert found is None or not found[0].free


def test_impossible_factors_are_none() -> None:
    assert factor(product([Axis(2), Axis(3)]), [3, 2]) is None


def test_freezing_keeps_the_first_reason_and_reaches_all_leaves() -> None:
    a, b = Axis(2), Axis(3)
    whole = product([a, b])
    whole.freeze(WHY)
    whole.freeze(Reason("too late"))
    assert a.frozen == b.frozen == WHY
    assert not whole.free


def test_freezing_follows_unification() -> None:
    a, b = Axis(6), Axis(6)
    a.freeze(WHY)
    unify(a, b)
    assert b.find().frozen == WHY
    pieces = split(b, [2, 4])
    assert pieces is not None and pieces[0].find().frozen == WHY


def test_a_reason_that_says_something_outlives_geometry() -> None:
    for first, second in ((WHY, Reason("space", GEOMETRY)), (Reason("space", GEOMETRY), WHY)):
        a, b = fixed(6, first), fixed(6, second)
        unify(a, b)
        assert a.find().frozen == b.find().frozen == WHY


def test_marks_follow_unification() -> None:
    a, b = Axis(6), Axis(6)
    a.mark("statistical")
    unify(a, b)
    assert "statistical" in b.find().marks
    pair = factor(b, [2, 3])
    assert pair is not None and all("statistical" in axis.marks for axis in pair)


def test_fixed_sizes_are_frozen_but_for_single_indices() -> None:
    assert fixed(3, WHY).frozen == WHY
    assert fixed(1, WHY).frozen is None
    assert fixed(3).frozen is None


def test_an_axis_inside_itself_freezes() -> None:
    a = Axis(4)
    pieces = split(a, [2, 2])
    assert pieces is not None
    unify(pieces[0], pieces[1])
    unify(a, a)
    b = Axis(2)
    unify(product([b, Axis(1)]), b)
    assert b.free


def test_a_constant_only_counts() -> None:
    met: list[tuple[int, int]] = []
    zeros, other = Axis(4), Axis(4)
    zeros.on_count = lambda a, b: met.append((a.size, b.size))
    unify(zeros, other)
    assert zeros.find() is not other.find() and met == [(4, 4)]
    pieces = split(zeros, [1, 3])
    assert pieces is not None and all(piece.on_count for piece in pieces)
    pair = factor(zeros, [2, 2])
    assert pair is not None and all(piece.on_count for piece in pair)
    assert len(met) == 3


def test_deep_chains_do_not_recurse() -> None:
    axes = [Axis(3) for _ in range(5000)]
    for a, b in pairwise(axes):
        unify(a, b)
    assert len({axis.find() for axis in axes}) == 1


def test_sizes_multiply_and_add_up() -> None:
    parts = [Axis(2), Axis(3), Axis(5)]
    assert product(parts).size == prod(p.size for p in parts)
    assert concat(parts).size == 10
