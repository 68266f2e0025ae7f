"""What `print(result)` says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from secateur.core.attempt import Attempt
from secateur.core.errors import FileError
from secateur.core.measured import Comparison
from secateur.core.page import Line
from secateur.core.plan import Choice, Plan, Reason
from secateur.core.result import Latency, Measured, Result, Verification

SITES = {
    "a": Choice(8, np.arange(4), "channel", "filters"),
    "b": Choice(16, np.arange(15), "channel", "filters"),
    "h": Choice(4, np.arange(2), "head", "heads"),
}
PLAN = Plan("f" * 64, SITES, removed=("block.1",))


def result() -> Result:
    return Result(
        nn.Linear(2, 2),
        PLAN,
        (PLAN,),
        Measured(1000, 2_000_000, 4000, Latency(10.0, 0.1, 50, 2), 0.91),
        Measured(400, 1_000_000, 1600, Latency(5.0, 0.1, 50, 2), 0.9),
        Verification(True, False, 1e-7, 2e-4, "masked original"),
        (Reason("an output of the model", "", "net.py:7"),),
        {"trace": 0.5},
        ("something to know",),
    )


def test_everything_that_matters_is_printed() -> None:
    lines = str(result()).splitlines()
    assert lines[0] == "Linear"
    assert lines[2].split() == ["parameters", "1,000", "400", "-60.0%"]
    assert lines[3].split() == ["MACs", "2.00", "M", "1.00", "M", "-50.0%"]
    assert lines[4].split() == ["bytes", "4.00", "kB", "1.60", "kB", "-60.0%"]
    assert lines[5].endswith("10.0 ms (spread 0.1 ms)  5.00 ms (spread 0.1 ms)  -50.0%")
    assert lines[6].split() == ["quality", "0.91", "0.9", "-0.01"]
    assert lines[7] == (
        "latency: measured here, median of 50 runs, cpu, 2 threads; 2.00 times as fast"
    )
    assert lines[8] == "removed: 5 of 24 filters at 2 sites; 2 of 4 heads at 1 site; 1 block"
    assert lines[9].startswith("verified: same outputs as the masked original on the example")
    assert lines[10:12] == ["frozen: 1 place", "  1 x an output of the model (net.py:7)"]
    assert lines[12:] == ["note: something to know", "took: trace 0.50 s"]


def test_what_was_not_measured_is_absent() -> None:
    text = str(replace(result(), before=Measured(10, None, 40), after=Measured(5, None, 20)))
    assert "MACs" not in text
    assert "latency" not in text
    assert "quality" not in text


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (Latency(20.0, 0.1, 50, 2), "slower: 2.00 times as long"),
        (Latency(10.001, 0.1, 50, 2), "no difference beyond the noise"),
        (Latency(9.0, 4.0, 10, 2), "no difference beyond the noise"),
        (Latency(2.0, 1.5, 10, 2), "the machine is too busy to compare"),
    ],
)
def test_the_clock_is_not_flattered(after: Latency, verdict: str) -> None:
    text = str(replace(result(), after=replace(result().after, latency=after)))
    assert verdict in text


def test_a_second_prune_says_so() -> None:
    assert str(replace(result(), plans=(PLAN, PLAN))).splitlines()[0] == "Linear (prune number 2)"


def test_cycles_are_counted_together() -> None:
    second = Plan("f" * 64, {"a": Choice(4, np.arange(3), "channel", "filters")})
    found = replace(result(), plans=(PLAN, PLAN, second), plan=second, cycles=2)
    lines = str(found).splitlines()
    assert lines[0] == "Linear (prune number 2)"
    assert lines[8] == "removed: 6 of 24 filters at 2 sites; 2 of 4 heads at 1 site; 1 block"
    assert found.to_dict()["cycles"] == 2


def test_dictionary_is_plain() -> None:
    value = json.loads(json.dumps(result().to_dict()))
    assert value["before"]["params"] == 1000
    assert value["after"]["latency"]["threads"] == 2
    assert value["sites"]["h"] == {"n": 4, "kept": 2, "unit": "head", "what": "heads"}
    assert value["removed"] == ["block.1"]
    assert value["frozen"][0]["where"] == ["net.py:7"]


def test_repr_is_short() -> None:
    assert repr(result()) == "Result(1,000 -> 400 parameters)"


def searched() -> Result:
    tried = Attempt("Drop(points=1.0)", 0.5, 0.49, margins={"Drop(points=1.0)": 0.1}, accepted=True)
    return replace(
        result(),
        before=replace(result().before, peak=3000),
        after=replace(result().after, peak=1500),
        repairs=("reconstructed 3 layers",),
        quality=Comparison(0.91, 0.9, 0.004, 500, "held out"),
        search=("searched: 1 network tried",),
        attempts=(tried,),
    )


def test_the_report_says_how_sure_the_quality_is() -> None:
    lines = [item.text for item in searched().verdict if isinstance(item, Line)]
    at = next(number for number, line in enumerate(lines) if line.startswith("quality: "))
    words = "the change of quality is within -0.018 and -0.0022, with 95% confidence"
    assert lines[at + 1] == words
    assert words not in str(searched())
    unknown = replace(searched(), quality=Comparison(0.91, 0.9))
    assert not any("confidence" in str(item) for item in unknown.verdict)


def test_what_was_searched_and_repaired_is_printed() -> None:
    lines = str(searched()).splitlines()
    assert lines[6].split() == ["peak", "memory", "3.00", "kB", "1.50", "kB", "-50.0%"]
    at = lines.index(
        "quality: 0.91 -> 0.9 (-0.01 ± 0.004), on 500 samples that nothing was selected on"
    )
    assert lines[at + 1] == "searched: 1 network tried"
    assert "reconstructed 3 layers" in lines


def test_the_history_is_in_the_dictionary() -> None:
    value = json.loads(json.dumps(searched().to_dict()))
    assert value["before"]["peak"] == 3000
    assert value["quality"] == {
        "before": 0.91, "after": 0.9, "error": 0.004, "samples": 500, "data": "held out",
    }  # fmt: skip
    assert Attempt.from_dict(value["attempts"][0]) == searched().attempts[0]
    assert value["repairs"] == ["reconstructed 3 layers"]
    assert json.loads(json.dumps(result().to_dict()))["quality"] is None


def test_a_picture_of_what_is_left_or_was_tried(tmp_path: Path) -> None:
    text = result().plot(tmp_path / "r.svg").read_text(encoding="utf-8")
    assert "what is left" in text
    assert text.count("<rect") == 1 + 2 * len(result().plan.sites)
    attempts = tuple(
        Attempt("g", 1, left, quality=quality, accepted=quality > 0.8, why="x")
        for left, quality in ((0.7, 0.9), (0.5, 0.85), (0.4, 0.7))
    )
    searched = replace(result(), attempts=attempts)
    assert searched.picture.count("<circle") == 3
    assert "chosen" in searched.picture
    assert searched._repr_html_().endswith(searched.picture)
    for name, match in (("r.png", "SVG"), ("none/r.svg", "cannot be written")):
        with pytest.raises(FileError, match=match):
            result().plot(tmp_path / name)
