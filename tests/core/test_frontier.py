"""The record of a frontier: what is dominated, what is printed, and the file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.core.errors import FileError
from secateur.core.frontier import Frontier, Point, mark_dominated

POINTS = st.lists(
    st.builds(lambda c, q: Point(0.5, float(c), q / 4), st.integers(1, 5), st.integers(0, 4)),
    min_size=1,
    max_size=7,
)


def front(**changes: object) -> Frontier:
    points = (
        Point(0.25, 250, 0.7, 0.02, 10, 250, 40),
        Point(0.75, 750, 0.89, 0.01, 30, 750, 120),
        Point(0.5, 500, 0.6, 0.03, 20, 500, 80),
    )
    arguments = {"name": "Net", "cost": "macs", "dense": Point(1, 1000, 0.9), "points": points}
    return Frontier(**{**arguments, **changes})  # type: ignore[arg-type]


@given(POINTS, st.booleans())
def test_dominated_by_brute_force(points: list[Point], lower: bool) -> None:
    found = mark_dominated(points, lower)
    for k, point in enumerate(found):
        beaten = False
        for j, other in enumerate(points):
            no_worse = other.quality <= point.quality if lower else other.quality >= point.quality
            same = (other.cost, other.quality) == (point.cost, point.quality)
            beaten |= j != k and no_worse and other.cost <= point.cost and not same
        assert point.dominated == beaten


def test_points_are_sorted_and_the_best_remain() -> None:
    found = front()
    assert [point.cost for point in found.points] == [750, 500, 250]
    assert [point.cost for point in found.best] == [750, 250]
    qualities = [point.quality for point in found.best]
    assert all(a > b for a, b in itertools.pairwise(qualities))
    losses = front(lower_is_better=True)
    assert [point.cost for point in losses.best] == [500, 250]
    assert losses.dense.dominated


def test_the_page() -> None:
    lines = str(front(samples=450, notes=("careful",))).splitlines()
    assert lines[0] == "Net: quality over MACs, 3 networks"
    assert lines[2].split() == ["original", "100.0%", "1.00", "k", "0.9"]
    assert lines[4].split() == ["50.0%", "500", "0.6", "±", "0.03", "dominated"]
    assert lines[6:] == ["quality: on 450 samples", "note: careful"]


def test_of_latency_the_macs_are_shown_too() -> None:
    points = (Point(0.5, 1.5, 0.8, macs=500, latency_ms=1.5, latency_error_ms=0.01),)
    found = front(
        cost="latency", dense=Point(1, 2.0, 0.9, macs=1000, latency_ms=2.0), points=points
    )
    lines = str(found).splitlines()
    assert lines[1].split() == ["share", "cost", "MACs", "quality"]
    assert lines[3].split() == ["50.0%", "1.50", "ms", "500", "0.8"]
    assert found.chart.x_label == "milliseconds"


def test_json() -> None:
    value = json.loads(json.dumps(front().to_dict()))
    assert [point["dominated"] for point in value["points"]] == [False, True, False]
    assert value["dense"]["cost"] == 1000


def test_the_plot(tmp_path: Path) -> None:
    path = front().plot(str(tmp_path / "front.svg"))
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 4
    with pytest.raises(FileError, match=r"not the name of an SVG"):
        front().plot(tmp_path / "front.png")
    with pytest.raises(FileError, match="cannot be written"):
        front().plot(tmp_path / "missing" / "front.svg")
