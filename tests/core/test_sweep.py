"""The record of a sweep: what dominates what, and what is printed."""

from __future__ import annotations

import json

import pytest

from secateur.core.errors import RecipeError
from secateur.core.sweep import Sweep, Tried, check_objectives

BEFORE = {"params": 100, "macs": 1000, "bytes": 400, "quality": 0.9, "latency": 2.0}


def tried(number: int, macs: float, quality: float, **more: float) -> Tried:
    values = {"params": macs / 10, "macs": macs, "bytes": 4 * macs, "quality": quality, **more}
    return Tried(number, {"budget.macs": macs / 1000, "criterion": "l1"}, values)


def sweep(*objectives: str, lower: bool = False) -> Sweep:
    trials = (
        tried(0, 500, 0.8, latency=1.0), tried(1, 600, 0.7, latency=0.5),
        tried(2, 300, 0.6, latency=1.5), tried(3, 500, 0.8, latency=1.0),
        Tried(4, {"budget.macs": 0.01}, failed="out of reach"),
    )  # fmt: skip
    return Sweep("net", objectives, BEFORE, trials, lower)


def test_what_is_not_dominated_is_the_best() -> None:
    assert [t.number for t in sweep("macs", "quality").best] == [2, 0, 3]
    assert [t.number for t in sweep("macs", "quality", lower=True).best] == [2]
    assert [t.number for t in sweep("quality").best] == [0, 3]
    assert {t.number for t in sweep("macs", "latency", "quality").best} == {0, 1, 2, 3}
    assert {t.number for t in sweep("latency", "macs").best} == {0, 1, 2, 3}


def test_the_page_shows_the_best_first_and_why_others_failed() -> None:
    text = str(sweep("macs", "quality"))
    lines = text.splitlines()
    assert lines[0] == "net: 5 prunes, 3 of them not dominated"
    assert lines[1].split() == ["trial", "MACs", "quality", "budget.macs", "criterion"]
    assert [line.split()[0] for line in lines[2:7]] == ["before", "2", "0", "3", "1"]
    assert "dominated" in lines[6] and "dominated" not in "".join(lines[2:6])
    assert lines[-1] == "failed (trial 4): out of reach"


def test_the_frontier() -> None:
    curve = sweep("latency", "quality").frontier()
    assert curve is not None and curve.cost == "latency" and curve.dense.cost == 2.0
    assert [point.latency_ms for point in curve.points] == [1.5, 1.0, 1.0, 0.5]
    assert sweep("macs", "params").frontier() is None and sweep("quality").frontier() is None


def test_json() -> None:
    value = json.loads(json.dumps(sweep("macs", "quality").to_dict()))
    assert value["trials"][0]["settings"] == {"budget.macs": 0.3, "criterion": "l1"}
    assert value["frontier"]["points"][0]["macs"] == 600 and len(value["trials"]) == 5


def test_objectives() -> None:
    assert check_objectives(["macs", "quality"]) == ("macs", "quality")
    with pytest.raises(RecipeError, match="did you mean quality"):
        check_objectives(["qualty"])
    for wrong in ([], ["macs", "macs"]):
        with pytest.raises(RecipeError, match="one or more, each once"):
            check_objectives(wrong)
