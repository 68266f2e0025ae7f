"""Units: which sites they find on a graph, and what scope does to them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from torch import nn

from secateur.core.errors import RecipeError
from secateur.core.layout import Fixed, Leaf, Product
from secateur.core.plan import Reason
from secateur.core.scope import Scope, only, skip
from secateur.core.site import Role, Site, Slice
from secateur.graph.graph import Axis, Block, Graph
from secateur.units import Channel, Head, Layer, sites


class Net(nn.Module):
    """A convolution with norm, an attention-like pair, a block and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.qkv = nn.Linear(4, 6)
        self.out = nn.Linear(6, 4)
        self.block = nn.Sequential(nn.Linear(4, 4))
        self.fc = nn.Linear(4, 2)


C, HEADS, DIM = Leaf("conv", 4), Leaf("heads", 2), Leaf("dim", 3)
INNER = Product((HEADS, DIM))
LAYOUTS = {
    "conv.weight": (C, Fixed(3), Fixed(1), Fixed(1)),
    "conv.bias": (C,),
    "norm.weight": (C,),
    "norm.bias": (C,),
    "norm.running_mean": (C,),
    "norm.running_var": (C,),
    "norm.num_batches_tracked": (),
    "qkv.weight": (INNER, C),
    "qkv.bias": (INNER,),
    "out.weight": (Fixed(4), INNER),
    "out.bias": (Fixed(4),),
    "block.0.weight": (Fixed(4), Fixed(4)),
    "block.0.bias": (Fixed(4),),
    "fc.weight": (Leaf("fc", 2), C),
    "fc.bias": (Leaf("fc", 2),),
}
SPECIAL: dict[tuple[str, int], Role] = {
    ("norm.weight", 0): "scale",
    ("norm.bias", 0): "shift",
    ("norm.running_mean", 0): "buffer",
    ("norm.running_var", 0): "buffer",
    **{(f"{name}.weight", 1): "in" for name in ("conv", "qkv", "out", "block.0", "fc")},
}
ROLES: dict[tuple[str, int], Role] = {
    (name, dim): SPECIAL.get((name, dim), "out")
    for name, x in LAYOUTS.items()
    for dim in range(len(x))
}
AXES = {
    axis.name: axis
    for axis in (
        Axis("conv", 4, "filters", statistical=True),
        Axis("heads", 2, "heads", head=True),
        Axis("dim", 3, "head dims"),
        Axis("fc", 2, "neurons", frozen=Reason("an output of the model")),
    )
}
NET = Net()
GRAPH = Graph(LAYOUTS, ROLES, AXES, (), (), (), (Block("block"),))


def names(found: list[Site]) -> list[str]:
    return [site.name for site in found]


def test_channels_are_the_free_axes_that_are_no_heads() -> None:
    found = Channel(multiple=2, floor=3).sites(GRAPH, Scope(), NET)
    assert names(found) == ["conv", "dim"]
    conv = found[0]
    assert (conv.unit, conv.n, conv.what, conv.statistical) == ("channel", 4, "filters", True)
    assert (conv.multiple, conv.floor, conv.module) == (2, 3, None)


def test_a_site_lists_every_dimension_that_holds_its_axis() -> None:
    conv, dim = Channel().sites(GRAPH, Scope(), NET)
    assert set(conv.slices) == {
        Slice("conv.weight", 0, C, "out"),
        Slice("conv.bias", 0, C, "out"),
        Slice("norm.weight", 0, C, "scale"),
        Slice("norm.bias", 0, C, "shift"),
        Slice("norm.running_mean", 0, C, "buffer"),
        Slice("norm.running_var", 0, C, "buffer"),
        Slice("qkv.weight", 1, C, "in"),
        Slice("fc.weight", 1, C, "in"),
    }
    assert set(dim.slices) == {
        Slice("qkv.weight", 0, INNER, "out"),
        Slice("qkv.bias", 0, INNER, "out"),
        Slice("out.weight", 1, INNER, "in"),
    }


def test_heads_are_the_head_axes() -> None:
    [site] = Head(floor=2).sites(GRAPH, Scope(), NET)
    assert (site.name, site.unit, site.what, site.floor) == ("heads", "head", "heads", 2)


def test_layers_are_the_blocks() -> None:
    [site] = Layer().sites(GRAPH, Scope(), NET)
    assert (site.name, site.unit, site.n, site.module, site.slices) == (
        "block", "layer", 1, "block", ())  # fmt: skip


def test_a_skipped_consumer_does_not_keep_its_inputs() -> None:
    assert "conv" in names(Channel().sites(GRAPH, skip("fc", "qkv"), NET))


@pytest.mark.parametrize("rule", ["conv", "norm", "conv.bias", "norm.weight", nn.Conv2d])
def test_a_skipped_producer_or_norm_keeps_the_axis(rule: Any) -> None:
    assert names(Channel().sites(GRAPH, skip(rule), NET)) == ["dim"]


def test_buffers_do_not_count_for_scope() -> None:
    assert "conv" in names(Channel().sites(GRAPH, skip("norm.running_mean"), NET))


def test_only_needs_all_producers() -> None:
    assert names(sites(GRAPH, [Channel(), Head()], only("qkv"), NET)) == ["dim", "heads"]
    assert names(sites(GRAPH, Channel(), only("conv"), NET)) == []
    assert names(sites(GRAPH, Channel(), only("conv", "norm"), NET)) == ["conv"]


def test_a_block_must_be_in_scope_as_a_whole() -> None:
    assert names(Layer().sites(GRAPH, skip("block.0.bias"), NET)) == []
    assert names(Layer().sites(GRAPH, only("block"), NET)) == ["block"]
    assert names(Layer().sites(GRAPH, only("block.0"), NET)) == []


def test_units_join_in_order() -> None:
    assert names(sites(GRAPH, [Layer(), Head(), Channel()], None, NET)) == [
        "block", "heads", "conv", "dim"]  # fmt: skip
    assert names(sites(GRAPH, Head(), None, NET)) == ["heads"]


def test_two_units_cannot_claim_the_same_place() -> None:
    with pytest.raises(RecipeError, match="claim conv"):
        sites(GRAPH, [Channel(), Channel(multiple=8)], None, NET)


@pytest.mark.parametrize("units", [[], [Channel], Channel, ["channel"], [3]])
def test_what_is_no_unit_is_refused(units: Any) -> None:
    with pytest.raises(RecipeError, match="unit"):
        sites(GRAPH, units, None, NET)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
def test_multiples_and_floors_are_positive_integers(value: Any) -> None:
    with pytest.raises(RecipeError, match="Channel"):
        Channel(multiple=value)
    with pytest.raises(RecipeError, match="Channel"):
        Channel(floor=value)
    with pytest.raises(RecipeError, match="Head"):
        Head(floor=value)


def test_units_are_values() -> None:
    assert Channel(multiple=8) == Channel(8) != Channel()
    assert repr(Channel(8, 4)) == "Channel(multiple=8, floor=4)"
    with pytest.raises(FrozenInstanceError):
        Channel().multiple = 3  # type: ignore[misc]
