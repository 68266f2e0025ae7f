"""Panels come back from JSON whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secateur.core.chart import Chart, Mark
from secateur.core.drawing import Drawing, Edge, Node
from secateur.core.errors import FileError
from secateur.core.page import Line, Table
from secateur.core.panel import Panel, Picture
from secateur.report.panels import decode, encode

PANEL = Panel(
    "All",
    (Line("a", "good"), Table(("", "n"), (("x", "1"),), frozenset({0, 1}))),
    Chart("c", "x", "y", (Mark(1.0, 2.0, "chosen", 0.1, "l", False), Mark(3, 4))),
    Drawing(
        "d", ("in", "out"), ((Node("a", "n", 1.0),), (Node("b"),)), (Edge((0, 0), (1, 0), -1),)
    ),
    (Picture.of("p", np.zeros((2, 3), dtype=np.uint8)),),
)


def test_round_trip() -> None:
    assert decode(json.loads(json.dumps(encode(PANEL)))) == PANEL
    assert decode(encode(Panel("Bare", ()))) == Panel("Bare", ())


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("chart"),
        lambda v: v.update(more=1),
        lambda v: v.update(title=1),
        lambda v: v.update(page={}),
        lambda v: v["page"].append({"script": {}}),
        lambda v: v["page"].append({"line": {"text": "x", "tone": "loud", "title": False}}),
        lambda v: v["page"][1]["table"].update(columns=[]),
        lambda v: v["page"][1]["table"]["rows"].append(["x"]),
        lambda v: v["page"][1]["table"].update(left=[-1]),
        lambda v: v["chart"].update(marks=[]),
        lambda v: v["chart"]["marks"][0].update(x=float("nan")),
        lambda v: v["chart"]["marks"][0].update(kind="evil"),
        lambda v: v["chart"]["marks"][0].update(y=True),
        lambda v: v["drawing"].update(heads=["in"]),
        lambda v: v["drawing"]["edges"][0].update(end=[1, 5]),
        lambda v: v["drawing"]["edges"][0].update(weight="1"),
        lambda v: v["drawing"]["columns"][0][0].update(size=None),
        lambda v: v["pictures"][0].update(png='" onerror="alert(1)'),
        lambda v: v["pictures"][0].update(png="PHN2Zz4="),
    ],
)
def test_anything_else_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(json.dumps(encode(PANEL)))
    change(value)
    with pytest.raises(FileError, match="panels"):
        decode(value)
