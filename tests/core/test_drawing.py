"""Pictures of networks: everything is in them, and names are text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from secateur.core.drawing import MOST_EDGES, Drawing, Edge, Node, shortest, svg

SVG = "{http://www.w3.org/2000/svg}"


def drawing(word: str = "x") -> Drawing:
    columns = (tuple(Node(f"{word}{k}", word, k / 4) for k in range(5)), (Node("y"), Node("z")))
    edges = tuple(Edge((0, k), (1, k % 2), k - 2.0) for k in range(5))
    return Drawing(word, (word, "out"), columns, edges)


def test_widths_are_weights_and_colours_are_signs() -> None:
    root = ET.fromstring(svg(drawing()))
    paths = root.findall(f"{SVG}path")
    assert len(root.findall(f".//{SVG}circle")) == 7
    assert len(paths) == 5
    widest = [path for path in paths if path.get("stroke-width") == "5.00"]
    assert len(widest) == 2
    assert len({path.get("stroke") for path in widest}) == 2
    assert {title.text for title in root.iter(f"{SVG}title")} >= {"x4 → y: 2", "x0 → y: -2"}


def test_names_are_text() -> None:
    evil = '<script>alert("1")</script>&'
    root = ET.fromstring(svg(drawing(evil)))
    assert not root.findall(f".//{SVG}script")
    assert root.findall(f"{SVG}title")[0].text == evil


def test_only_the_widest_lines_of_many() -> None:
    many = Drawing("", ("a", "b"), ((Node("p"),), (Node("q"),)), drawing().edges[:0])
    edges = tuple(Edge((0, 0), (1, 0), float(k)) for k in range(MOST_EDGES + 10))
    text = svg(Drawing("", many.heads, many.columns, edges))
    assert text.count("<path") == MOST_EDGES
    assert ": 9<" not in text


def test_the_largest_of_each_column() -> None:
    few = shortest(drawing(), [2, 1])
    assert [node.label for node in few.columns[0]] == ["x3", "x4"]
    assert few.edges == (Edge((0, 1), (1, 0), 2.0),)
    assert svg(Drawing("", (), (), ())).startswith("<svg")
