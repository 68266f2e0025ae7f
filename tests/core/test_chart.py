"""Charts: well-formed, everything inside, and at the right place."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.core.chart import HEIGHT, WIDTH, Chart, Mark, svg, ticks

NS = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


def chart(*marks: Mark) -> Chart:
    return Chart("A <net> & more", "MACs", 'quality "top-1"', marks)


def circles(text: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(text)
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{NS}circle")]


def test_text_is_escaped_and_axes_are_labelled() -> None:
    text = svg(chart(Mark(10, 0.9, "dense"), Mark(5, 0.8, label="5 < 10")))
    said = [element.text for element in ElementTree.fromstring(text).iter(f"{NS}text")]
    assert {"A <net> & more", "MACs", 'quality "top-1"', "original", "not dominated"} <= set(said)
    assert "dominated" not in said
    titles = [element.text for element in ElementTree.fromstring(text).iter(f"{NS}title")]
    assert "5 < 10" in titles
    assert not re.search(r"href|url\(|<script|<image", text)


def test_places_are_proportional_and_higher_is_up() -> None:
    text = svg(chart(Mark(10, 0.9), Mark(5, 0.8), Mark(0, 0.7)))
    (x3, y3), (x2, y2), (x1, y1) = sorted(circles(text), reverse=True)
    assert x3 - x2 == pytest.approx(x2 - x1)
    assert y3 - y2 == pytest.approx(y2 - y1)
    assert y3 < y1


def test_the_curve_joins_what_is_joined() -> None:
    marks = (
        Mark(10, 0.9, "dense"),
        Mark(8, 0.5, "dominated", joined=False),
        Mark(5, 0.8, "best", 0.01),
    )
    text = svg(chart(*marks))
    places = circles(text)
    assert len(places) == 3
    line = next(p for p in ElementTree.fromstring(text).iter(f"{NS}path") if "1.5" in str(p.attrib))
    assert line.attrib["d"].count("L") == 1
    assert text.count("#9aa5b1") == 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_everything_is_inside(points: list[tuple[float, float]]) -> None:
    text = svg(chart(*(Mark(x, y, error=abs(y) / 10) for x, y in points)))
    for x, y in circles(text):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_ticks_enclose_and_are_few(values: list[float]) -> None:
    found = ticks(values)
    assert 2 <= len(found) <= 12
    assert found == sorted(found)
    slack = 1e-6 * (found[-1] - found[0])
    assert found[0] <= min(values) + slack
    assert found[-1] >= max(values) - slack
