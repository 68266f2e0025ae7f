"""Bars: as much as there was, filled by what is left, and names are text."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from secateur.core.bars import Bar, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_widths() -> None:
    root = ET.fromstring(svg("<Net>", [Bar("<a>", 100, 25), Bar("b", 25, 25), Bar("none", 0, 0)]))
    _, *bars = (float(r.get("width") or 0) for r in root.findall(f"{SVG}rect"))
    assert bars == [300.0, 75.0, 150.0, 150.0, 0.0, 0.0]
    words = [text.text for text in root.findall(f"{SVG}text")]
    assert {"<Net>", "<a>", "25 of 100"} <= set(words)
    assert svg("", []).startswith("<svg")
