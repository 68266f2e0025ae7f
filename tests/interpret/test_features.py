"""The record of a feature selection: what is certain, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secateur.core.drawing import Drawing, Node
from secateur.interpret.features import Features, Run, Visit, stability


def record() -> Features:
    dense = Visit(4, 8, 48, 0.9)
    runs = (
        Run(0, (0, 1), (dense, Visit(2, 3, 12, 0.91), Visit(1, 3, 8, 0.7)), 1),
        Run(1, (0, 2), (dense, Visit(2, 2, 10, 0.89)), 1),
        Run(2, (0, 1), (dense, Visit(2, 4, 14, 0.92)), 1),
    )
    drawing = Drawing("Net", ("inputs",), ((Node("a"),),), ())
    return Features("Net", ("a", "b", "c", "d"), runs, 0.9, 0.01, drawing)


def test_what_most_runs_use_is_selected() -> None:
    found = record()
    assert found.frequency.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert found.selected == (0, 1)
    assert found.best.seed == 1
    lines = str(found).splitlines()
    assert lines[0] == "Net: 2 of 4 inputs count"
    assert lines[2].split() == ["a", "100%"]
    assert lines[3].split() == ["b", "67%"]
    assert json.loads(json.dumps(found.to_dict()))["selected"] == ["a", "b"]


def test_pictures(tmp_path: Path) -> None:
    found = record()
    assert found.plot(tmp_path / "n.svg").read_text(encoding="utf-8").startswith("<svg")
    kinds = [mark.kind for mark in found.chart.marks]
    assert kinds.count("best") == 3
    assert kinds.count("dense") == 1
    assert found.panel.chart == found.chart
    assert "<svg" in found._repr_html_()


def test_stability_is_one_if_all_agree_and_zero_by_chance() -> None:
    assert stability([[1, 2]] * 3, 5) == 1
    assert stability([[1]], 5) is None
    assert stability([[], []], 5) == 1
    draw = np.random.default_rng(0)
    drawn = [draw.choice(50, 10, replace=False).tolist() for _ in range(40)]
    assert abs(stability(drawn, 50) or 1) < 0.05
