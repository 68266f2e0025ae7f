"""The cost model against models that are really sliced, and against Python integers."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.core.errors import InputError
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.core.site import Site, Slice
from secateur.graph.graph import Graph, Term
from secateur.measure.cost import Amounts, Cost

A, B, H, D = Leaf("0", 6), Leaf("3", 4), Leaf("h", 2), Leaf("d", 3)
GATES = Concat((B,) * 3)


def graph_of(layouts: Mapping[str, tuple[Layout, ...]], terms: tuple[Term, ...] = ()) -> Graph:
    return Graph(dict(layouts), {}, {}, (), (), terms, ())


class Net(nn.Module):
    """Convolution, norm, recurrent layer on heads x dims: each kind of layout once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.heads = nn.Linear(6, 6)
        self.rnn = nn.GRU(6, 4)
        self.fc = nn.Linear(10, 5)
        self.tied = nn.Linear(10, 5, bias=False)
        self.tied.weight = self.fc.weight
        self.unknown = nn.Parameter(torch.zeros(7, dtype=torch.float64))


JOINT, BOTH = Product((H, D)), Concat((B, Product((H, D))))
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "conv.weight": (A, Fixed(3), Fixed(3), Fixed(3)),
    "conv.bias": (A,),
    **{f"norm.{name}": (A,) for name in ("weight", "bias", "running_mean", "running_var")},
    "norm.num_batches_tracked": (),
    "heads.weight": (JOINT, A),
    "heads.bias": (JOINT,),
    "rnn.weight_ih_l0": (GATES, JOINT),
    "rnn.weight_hh_l0": (GATES, B),
    "rnn.bias_ih_l0": (GATES,),
    "rnn.bias_hh_l0": (GATES,),
    "fc.weight": (Fixed(5), BOTH),
    "fc.bias": (Fixed(5),),
}
TERMS = (
    Term("conv", "convolution", 27 * 100, (A,)),
    Term("heads", "addmm", 1, (JOINT, A)),
    Term("rnn", "mm", 8, (GATES, JOINT)),
    Term("rnn", "mm", 8, (GATES, B)),
    Term("fc", "addmm", 5, (BOTH,)),
    Term("tied", "mm", 5, (BOTH,)),
    Term("", "bmm", 3, (H, D, H)),
)
NET = Net()
COST = Cost(graph_of(LAYOUTS, TERMS), NET)
COUNTS = st.fixed_dictionaries(
    {}, optional={leaf.name: st.integers(1, leaf.n) for leaf in (A, B, H, D)}
)


def sliced(counts: Mapping[str, int]) -> Amounts:
    """The amounts, from tensors that are really cut to their first indices."""
    keeps = {leaf.name: np.arange(leaf.n) < counts.get(leaf.name, leaf.n) for leaf in (A, B, H, D)}

    def size(name: str, tensor: torch.Tensor) -> int:
        for dim, layout in enumerate(LAYOUTS.get(name, ())):
            tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(layout.keep(keeps))))
        return tensor.numel()

    parameters = [(size(name, p), p.element_size()) for name, p in NET.named_parameters()]
    buffers = [(size(name, b), b.element_size()) for name, b in NET.named_buffers()]
    macs = sum(t.factor * prod(int(x.keep(keeps).sum()) for x in t.layouts) for t in TERMS)
    total = sum(n * width for n, width in parameters + buffers)
    return Amounts(sum(n for n, _ in parameters), macs, total)


@settings(deadline=None)
@given(COUNTS)
def test_the_total_is_what_slicing_leaves(counts: dict[str, int]) -> None:
    assert COST.total(counts) == sliced(counts)


def test_the_full_model_is_counted_as_torch_counts_it() -> None:
    full = COST.total({})
    assert full.params == sum(p.numel() for p in NET.parameters())
    assert full.bytes == sum(t.nbytes for t in [*NET.parameters(), *NET.buffers()])
    assert all(type(value) is int for value in (full.params, full.macs, full.bytes))


@settings(deadline=None)
@given(COUNTS)
def test_the_table_by_module_adds_up(counts: dict[str, int]) -> None:
    table = COST.by_module(counts)
    for kind in ("params", "macs", "bytes"):
        total = sum(getattr(row, kind) for row in table.values())
        assert total == getattr(COST.total(counts), kind)
    assert table["fc"].params == COST.total(counts).params - sum(
        row.params for name, row in table.items() if name != "fc"
    )
    assert table["tied"].params == 0


@settings(deadline=None)
@given(COUNTS, st.sampled_from([A, B, H, D]))
def test_an_index_costs_what_its_removal_saves(counts: dict[str, int], leaf: Leaf) -> None:
    site = Site(leaf.name, "channel", leaf.n)
    left = {**counts, leaf.name: counts.get(leaf.name, leaf.n) - 1}
    assert COST.index(site, counts) == sliced(counts) - sliced(left)


def test_a_removed_block_takes_everything_below_it() -> None:
    net = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2)), "ab": nn.Linear(2, 2)})
    terms = (Term("a", "x", 1, ()), Term("a.0", "y", 10, ()), Term("ab", "z", 100, ()))
    cost = Cost(graph_of({}, terms), net)
    assert cost.total({}, ["a"]) == Amounts(6, 100, 24)
    assert cost.total({}, ["a", "ab"]) == Amounts(0, 0, 0)
    assert cost.total({}, ["a.0"]).macs == 101
    assert cost.index(Site("a", "layer", 1, module="a")) == Amounts(6, 11, 24)
    assert cost.by_module(removed=["a"]) == {"ab": Amounts(6, 100, 24)}


def test_a_shared_tensor_is_gone_when_all_its_owners_are() -> None:
    layouts = LAYOUTS
    cost = Cost(graph_of(layouts), NET)
    full = cost.total({})
    assert full.params - cost.total({}, ["tied"]).params == 0
    assert full.params - cost.total({}, ["fc"]).params == 5
    assert full.params - cost.total({}, ["fc", "tied"]).params == 55


def test_amounts_beyond_64_bits_are_exact() -> None:
    big = 10**15
    terms = tuple(Term("", "mm", big, (A, B)) for _ in range(1000))
    model = nn.Module()
    assert Cost(graph_of({}, terms), model).total({"0": 5}).macs == 1000 * big * 5 * 4
    terms = (Term("", "mm", 10**30 + 1, (A, Product((B, B)))),)
    cost = Cost(graph_of({}, terms), model)
    assert cost.total({"0": 5, "3": 3}).macs == (10**30 + 1) * 45
    assert type(cost.total({}).macs) is int


def test_many_terms_just_below_the_limit_are_exact() -> None:
    factor = (2**62 - 1) // 24 // 3
    cost = Cost(graph_of({}, tuple(Term(str(i), "mm", factor, (A, B)) for i in range(3))), NET)
    assert cost.total({"0": 3}).macs == 3 * factor * 12


def test_an_empty_model_costs_nothing() -> None:
    cost = Cost(graph_of({}), nn.Identity())
    assert cost.total({}) == cost.total({"x": 3}, ["y"]) == Amounts(0, 0, 0)


@pytest.mark.parametrize("count", [-1, 7])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"0 cannot keep {count} of 6"):
        COST.total({"0": count})


def test_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"traced with another fc.bias: \(5,\), not \(4,\)"):
        Cost(graph_of({"fc.bias": (Fixed(5),)}), nn.ModuleDict({"fc": nn.Linear(2, 4)}))
    with pytest.raises(InputError, match="two sizes"):
        Cost(graph_of({}, (Term("", "mm", 1, (Leaf("x", 2), Leaf("x", 3))),)), nn.Identity())
    with pytest.raises(InputError, match="no shape yet"):
        Cost(graph_of({}), nn.LazyLinear(3))


def test_amounts_do_not_depend_on_evaluation_order() -> None:
    counts: list[dict[str, Any]] = [{"0": 1}, {}, {"h": 1, "d": 2}, {"0": 1}]
    assert [COST.total(c) for c in counts] == [
        Cost(graph_of(LAYOUTS, TERMS), NET).total(c) for c in counts
    ]


def test_a_slice_is_not_needed_for_the_cost_of_an_index() -> None:
    bare = Site("0", "channel", 6)
    full = Site("0", "channel", 6, (Slice("conv.weight", 0, A, "out"),))
    assert COST.index(bare) == COST.index(full)
