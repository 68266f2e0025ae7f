"""What `print(inspection)` says."""

from __future__ import annotations

import json
from types import SimpleNamespace

from secateur.core.inspection import Inspection
from secateur.core.layout import Fixed, Leaf
from secateur.core.measured import Measured
from secateur.core.plan import Reason
from secateur.core.site import Site, Slice

A, B = Leaf("a", 8), Leaf("b", 4)
GRAPH = SimpleNamespace(
    layouts={
        "a.weight": (A, Fixed(3)),
        "a.mean": (A,),
        "b.weight": (B, A),
        "block.c.weight": (Fixed(5), B),
        "scale": (),
    },
    roles={("a.mean", 0): "buffer"},
    axes={
        "a": SimpleNamespace(frozen=None),
        "x": SimpleNamespace(frozen=Reason("an input")),
        "y": SimpleNamespace(frozen=Reason("an output", "", "n.py:3")),
        "z": SimpleNamespace(frozen=Reason("an output", "", "n.py:4")),
    },
    unknown={"aten.roll": Reason("no rule for aten.roll")},
    notes=("be careful",),
)
SITES = [
    Site("a", "channel", 8, (
        Slice("a.weight", 0, A, "out"),
        Slice("a.mean", 0, A, "buffer"),
        Slice("b.weight", 1, A, "in"),
    )),
    Site("b", "channel", 4, (
        Slice("b.weight", 0, B, "out"),
        Slice("block.c.weight", 1, B, "in"),
    )),
    Site("block", "layer", 1, what="blocks", module="block"),
]  # fmt: skip


def inspection() -> Inspection:
    return Inspection.of("Net", Measured(76, 100, 304), SITES, GRAPH)


def test_parameters_count_once_and_buffers_do_not() -> None:
    channel, layer = inspection().kinds
    assert (channel.unit, channel.sites, channel.indices, channel.params) == ("channel", 2, 12, 76)
    assert (layer.sites, layer.params, layer.biggest.name) == (1, 20, "block")
    assert [place.params for place in inspection().biggest] == [56, 52, 20]


def test_printed() -> None:
    lines = str(inspection()).splitlines()
    assert lines[0] == "Net: 76 parameters · 100 MACs · 304 B"
    assert lines[2].split() == ["channels", "2", "12", "100%", "a", "(8", "channels)"]
    assert lines[3].split() == ["layers", "1", "1", "26%", "block", "(1", "block)"]
    assert "frozen: 4 axes" in lines
    assert "  2 x an output (n.py:3, n.py:4)" in lines
    assert "  1 x no rule for aten.roll" in lines
    assert lines[-1] == "note: be careful"


def test_nothing_to_remove() -> None:
    empty = SimpleNamespace(layouts={}, roles={}, axes={}, unknown={}, notes=())
    assert "nothing can be removed" in str(Inspection.of("Net", Measured(0, 0, 0), [], empty))


def test_dictionary_is_plain() -> None:
    value = json.loads(json.dumps(inspection().to_dict()))
    assert value["whole"]["params"] == 76
    assert value["kinds"][0]["biggest"]["name"] == "a"
