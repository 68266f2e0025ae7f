"""A network of few units as a picture: columns of nodes, and lines as wide as their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_COLUMN, _ROW, _TOP, _SIDE, _TEXT = 200, 26, 40, 24, 150
_POSITIVE, _NEGATIVE, _INK, _NODE = "#00798c", "#d1495b", "#1f2933", "#52606d"
_WIDEST = 5.0
MOST_EDGES = 2_000
"""Lines that are drawn at most: the widest."""


@dataclass(frozen=True)
class Node:
    """A unit. label: beside it. note: shown when the pointer rests on it. size: from 0 to 1."""

    label: str
    note: str = ""
    size: float = 0.5


@dataclass(frozen=True)
class Edge:
    """A line from a node to another: (column, row) each, with a signed weight."""

    start: tuple[int, int]
    end: tuple[int, int]
    weight: float


@dataclass(frozen=True)
class Drawing:
    """Columns of nodes from input to output, with their heads, and edges between any of them.

    Example:
        >>> net = Drawing("Net", ("in", "out"), ((Node("a"), Node("b")), (Node("y"),)),
        ...               (Edge((0, 0), (1, 0), 1.5), Edge((0, 1), (1, 0), -0.2)))
        >>> svg(net).count("<circle"), svg(net).count("<path")
        (3, 2)
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[tuple[Node, ...], ...]
    edges: tuple[Edge, ...]


def svg(drawing: Drawing) -> str:
    """The drawing as the text of an SVG file that needs no other; black on white."""
    rows = max((len(column) for column in drawing.columns), default=1)
    last = max(0, len(drawing.columns) - 1)
    width, height = 2 * _TEXT + last * _COLUMN, _TOP + rows * _ROW + _SIDE
    drawn = sorted(drawing.edges, key=lambda edge: -abs(edge.weight))[:MOST_EDGES]
    largest = max((abs(edge.weight) for edge in drawn), default=0.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="11">',
        f"<title>{escape(drawing.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(_edge(drawing, edge, largest, rows) for edge in reversed(drawn)),
    ]
    for column, (head, nodes) in enumerate(zip(drawing.heads, drawing.columns, strict=True)):
        parts.append(_text(_x(column), 18, head, size=13))
        side = -1 if column == 0 else 1 if column == last else 0
        for row, node in enumerate(nodes):
            parts.append(_node(_x(column), _y(row, len(nodes), rows), node, side))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(column: int) -> float:
    return _TEXT + column * _COLUMN


def _y(row: int, n: int, rows: int) -> float:
    """Columns are centred, and use the whole height."""
    return round(_TOP + (row + 0.5) * rows * _ROW / n, 1)


def _edge(drawing: Drawing, edge: Edge, largest: float, rows: int) -> str:
    (a, i), (b, k) = edge.start, edge.end
    x1, y1 = _x(a), _y(i, len(drawing.columns[a]), rows)
    x2, y2 = _x(b), _y(k, len(drawing.columns[b]), rows)
    half = (x1 + x2) / 2
    share = abs(edge.weight) / largest
    colour = _POSITIVE if edge.weight >= 0 else _NEGATIVE
    names = drawing.columns[a][i].label, drawing.columns[b][k].label
    return (
        f'<path d="M{x1} {y1}C{half} {y1} {half} {y2} {x2} {y2}" fill="none" stroke="{colour}" '
        f'stroke-width="{max(0.3, _WIDEST * share):.2f}" opacity="{0.25 + 0.6 * share:.2f}">'
        f"<title>{escape(' → '.join(names))}: {edge.weight:.3g}</title></path>"
    )


def _node(x: float, y: float, node: Node, side: int) -> str:
    note = f"<title>{escape(node.note)}</title>" if node.note else ""
    circle = f'<circle cx="{x}" cy="{y}" r="{3 + 5 * node.size:.1f}" fill="{_NODE}"/>'
    if side:
        label = _text(x + side * 12, y + 4, _cut(node.label), anchor="start" if side > 0 else "end")
    else:
        label = _text(x, y - 10, _cut(node.label), size=9)
    return f"<g>{note}{circle}{label}</g>"


def _cut(label: str, most: int = 22) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "middle") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}">'
        f"{escape(text)}</text>"
    )


def shortest(drawing: Drawing, most: Sequence[int] | int) -> Drawing:
    """The same with at most so many nodes in every column: the largest of each.

    Example:
        >>> net = Drawing("", ("in",), ((Node("a", size=0.1), Node("b", size=0.9)),), ())
        >>> [node.label for node in shortest(net, 1).columns[0]]
        ['b']
    """
    limits = [most] * len(drawing.columns) if isinstance(most, int) else list(most)
    chosen = [
        sorted(sorted(range(len(nodes)), key=lambda k, n=nodes: -n[k].size)[:limit])
        for nodes, limit in zip(drawing.columns, limits, strict=True)
    ]
    where = {(c, old): (c, new) for c, rows in enumerate(chosen) for new, old in enumerate(rows)}
    return Drawing(
        drawing.title,
        drawing.heads,
        tuple(
            tuple(nodes[k] for k in rows)
            for nodes, rows in zip(drawing.columns, chosen, strict=True)
        ),
        tuple(
            Edge(where[edge.start], where[edge.end], edge.weight)
            for edge in drawing.edges
            if edge.start in where and edge.end in where
        ),
    )
