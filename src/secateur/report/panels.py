"""Panels in `report.json`: plain values, and back only if they are exactly such."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from secateur.core.chart import Chart, Mark
from secateur.core.drawing import Drawing, Edge, Node
from secateur.core.errors import FileError
from secateur.core.page import Line, Table
from secateur.core.panel import Panel, Picture

_T = TypeVar("_T")
_HINT = "the file was changed or damaged; save the result again"
_KINDS = ("dense", "best", "dominated", "chosen")
TONES = ("plain", "good", "warn", "quiet")
_PNG = b"\x89PNG\r\n\x1a\n"


def encode(panel: Panel) -> dict[str, Any]:
    """A panel as plain values, for JSON.

    Example:
        >>> panel = Panel("A", (Line("b"), Table(("", "n"), (("c", "1"),))))
        >>> decode(encode(panel)) == panel
        True
    """
    return {
        "title": panel.title,
        "page": [_item(item) for item in panel.page],
        "chart": None if panel.chart is None else asdict(panel.chart),
        "drawing": None if panel.drawing is None else asdict(panel.drawing),
        "pictures": [asdict(picture) for picture in panel.pictures],
    }


def _item(item: Line | Table) -> dict[str, Any]:
    if isinstance(item, Line):
        return {"line": asdict(item)}
    return {"table": {**asdict(item), "left": sorted(item.left)}}


def decode(value: Any) -> Panel:
    """A panel from plain values.

    Raises:
        FileError: They are anything but what `encode` gives.
    """
    found = _fields(value, "title", "page", "chart", "drawing", "pictures")
    return Panel(
        _text(found["title"]),
        tuple(_listed(found["page"], _page_item)),
        None if found["chart"] is None else _chart(found["chart"]),
        None if found["drawing"] is None else _drawing(found["drawing"]),
        tuple(_listed(found["pictures"], _picture)),
    )


def line(value: Any) -> Line:
    """One line."""
    found = _fields(value, "text", "tone", "title")
    _require(found["tone"] in TONES and isinstance(found["title"], bool))
    return Line(_text(found["text"]), found["tone"], found["title"])


def _page_item(value: Any) -> Line | Table:
    _require(isinstance(value, dict) and len(value) == 1)
    ((kind, inner),) = value.items()
    if kind == "line":
        return line(inner)
    _require(kind == "table")
    found = _fields(inner, "columns", "rows", "left")
    columns = tuple(_listed(found["columns"], _text))
    rows = tuple(tuple(_listed(row, _text)) for row in _listed(found["rows"], lambda row: row))
    _require(bool(columns) and all(len(row) == len(columns) for row in rows))
    return Table(columns, rows, frozenset(_listed(found["left"], _count)))


def _chart(value: Any) -> Chart:
    found = _fields(value, "title", "x_label", "y_label", "marks")
    marks = tuple(_listed(found["marks"], _mark))
    _require(bool(marks))
    return Chart(_text(found["title"]), _text(found["x_label"]), _text(found["y_label"]), marks)


def _mark(value: Any) -> Mark:
    found = _fields(value, "x", "y", "kind", "error", "label", "joined")
    _require(found["kind"] in _KINDS and isinstance(found["joined"], bool))
    error = None if found["error"] is None else _number(found["error"])
    return Mark(
        _number(found["x"]), _number(found["y"]), found["kind"], error, _text(found["label"]),
        found["joined"],
    )  # fmt: skip


def _drawing(value: Any) -> Drawing:
    found = _fields(value, "title", "heads", "columns", "edges")
    heads = tuple(_listed(found["heads"], _text))
    columns = tuple(
        tuple(_listed(nodes, _node)) for nodes in _listed(found["columns"], lambda nodes: nodes)
    )
    edges = tuple(_listed(found["edges"], _edge))
    _require(len(heads) == len(columns))
    places = {(c, r) for c, nodes in enumerate(columns) for r in range(len(nodes))}
    _require(all(edge.start in places and edge.end in places for edge in edges))
    return Drawing(_text(found["title"]), heads, columns, edges)


def _node(value: Any) -> Node:
    found = _fields(value, "label", "note", "size")
    return Node(_text(found["label"]), _text(found["note"]), _number(found["size"]))


def _edge(value: Any) -> Edge:
    found = _fields(value, "start", "end", "weight")
    return Edge(_place(found["start"]), _place(found["end"]), _number(found["weight"]))


def _place(value: Any) -> tuple[int, int]:
    _require(isinstance(value, (list, tuple)) and len(value) == 2)
    return _count(value[0]), _count(value[1])


def _picture(value: Any) -> Picture:
    """Nothing but base64 of a PNG, so that it can stand in an attribute."""
    found = _fields(value, "caption", "png")
    try:
        data = base64.b64decode(_text(found["png"]), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    _require(data.startswith(_PNG))
    return Picture(_text(found["caption"]), found["png"])


def _fields(value: Any, *names: str) -> dict[str, Any]:
    _require(isinstance(value, dict) and value.keys() == set(names))
    return value


def _listed(value: Any, read: Callable[[Any], _T]) -> list[_T]:
    _require(isinstance(value, (list, tuple)))
    return [read(item) for item in value]


def _text(value: Any) -> str:
    _require(isinstance(value, str))
    return value


def _number(value: Any) -> float:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(real and math.isfinite(value))
    return value


def _count(value: Any) -> int:
    _require(type(value) is int and value >= 0)
    return value


def _require(fine: bool) -> None:
    if not fine:
        raise FileError("a report with impossible panels", hint=_HINT)


__all__ = ["TONES", "decode", "encode", "line"]
