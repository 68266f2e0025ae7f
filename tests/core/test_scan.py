"""The record of a sensitivity scan."""

from __future__ import annotations

import json

from secateur.core.scan import Sensed, Sensitivity

SCAN = Sensitivity(
    "Net",
    "quality",
    (
        Sensed({"a": 6}, {"a": 8}, 0.01, 0.002),
        Sensed({"a": 4}, {"a": 8}, 0.02, 0.004),
        Sensed({"b": 2, "c": 4}, {"b": 4, "c": 8}, 0.3),
    ),
    450,
    ("d not scanned",),
)


def test_as_a_database_every_site_has_its_own_counts() -> None:
    assert SCAN.as_database() == {
        "a": {8: 0.0, 6: 0.01, 4: 0.02},
        "b": {4: 0.0, 2: 0.3},
        "c": {8: 0.0, 4: 0.3},
    }


def test_the_page_has_the_most_sensitive_first() -> None:
    assert str(SCAN).splitlines() == [
        "Net: loss of quality when one place alone is cut, 2 places",
        "               75%   50%",
        "b and 1 more         0.3",
        "a             0.01  0.02",
        "on 450 samples",
        "note: d not scanned",
    ]


def test_json() -> None:
    value = json.loads(json.dumps(SCAN.to_dict()))
    assert value["sensed"][2]["kept"] == {"b": 2, "c": 4}
    assert value["metric"] == "quality"
