"""What a report knows: counted from the model and its plans, and read back from JSON only whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import api
from secateur.core.attempt import Attempt
from secateur.core.budget import MACs, Params, Sparsity
from secateur.core.chart import Chart, Mark
from secateur.core.drawing import Drawing, Edge, Node
from secateur.core.errors import FileError, InputError
from secateur.core.frontier import Frontier, Point
from secateur.core.page import Line, Table
from secateur.core.panel import Panel
from secateur.core.result import Result
from secateur.core.schedule import Steps
from secateur.report.facts import Facts, Part, parts
from secateur.units import Layer, Weight


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.body = nn.Sequential(Block(), Block())
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.body(self.first(x))) * self.scale


EXAMPLE = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def result() -> Result:
    torch.manual_seed(0)
    return api.prune(Deep(), EXAMPLE, budget=Params("60%"), latency=False)


def test_parts_add_up_to_the_model(result: Result) -> None:
    found = {part.name: part for part in parts(result)}
    assert sum(part.before for part in found.values()) == result.before.params
    assert sum(part.after for part in found.values()) == result.after.params
    assert found[""] == Part("", "Deep", 1, 1)
    assert found["first"].kind == "Linear"
    assert "tied" not in found
    assert "body" not in found


def test_removed_blocks_are_parts() -> None:
    result = api.prune(Deep(), EXAMPLE, unit=Layer(), budget=Params("70%"), latency=False)
    found = {part.name: part for part in parts(result)}
    (name,) = result.plan.removed
    assert found[name] == Part(name, "removed", 4 * 8 + 8 + 8 * 4 + 4, 0, (2 * 2 * 4 * 8, 0))
    assert sum(part.before for part in found.values()) == result.before.params


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8)
        self.deep, self.lstm = nn.Conv2d(8, 8, 3, groups=8), nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.deep(self.norm(self.conv(x)).relu()).flatten(2).transpose(1, 2)
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("schedule", [None, Steps(2)])
def test_work_adds_up_to_that_of_the_model(schedule: Steps | None) -> None:
    x, how = torch.randn(2, 3, 8, 8), {"budget": MACs("40%"), "latency": False}
    result = api.prune(Mixed(), x, schedule=schedule, **how)
    found = parts(result)
    assert sum(part.work[0] for part in found) == result.before.macs
    assert sum(part.work[1] for part in found) == result.after.macs
    assert {part.name for part in found if not part.work[0]} == {"norm"}
    again = api.prune(result.model, x, **how)  # of the network before the first nobody counted
    assert not any(part.work[0] for part in parts(again))


def test_zeros_do_not_count_as_left() -> None:
    result = api.prune(Deep(), EXAMPLE, unit=Weight(), budget=Sparsity(0.5), latency=False)
    gone = sum(int((~mask).sum()) for mask in result.masks.values())
    assert sum(part.before - part.after for part in parts(result)) == gone > 0


def full(result: Result) -> Facts:
    facts = Facts.of(result, "secateur prune x")
    attempts = (Attempt("Drop(points=1)", 0.5, 0.4, quality=0.9), Attempt("Drop(points=1)", 0.3))
    page = (Line("x"), Table(("", "n"), (("a", "1"),)))
    chart = Chart("c", "x", "y", (Mark(1, 2),))
    drawing = Drawing("d", ("in", "out"), ((Node("a"),), (Node("b"),)), (Edge((0, 0), (1, 0), 2),))
    panel = Panel("A panel", page, chart, drawing)
    more = {"attempts": attempts, "notes": ("a note",), "panels": (panel,)}
    return Facts(**{**vars(facts), **more})


def test_round_trip(result: Result) -> None:
    facts = full(result)
    assert Facts.from_json(facts.to_json()) == facts
    assert facts.columns == ("", "before", "after", "change")
    assert facts.verdict[0][0] == "parameters"
    assert any(line.text.startswith("verified: ") for line in facts.lines)
    assert facts.versions["torch"].startswith(torch.__version__.partition("+")[0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: v.update(kind="x"), "kind"),
        (lambda v: v.update(schema=2), "newer Secateur"),
        (lambda v: v.update(schema=True), "fields"),
        (lambda v: v.update(more=1), "fields"),
        (lambda v: v.pop("notes"), "fields"),
        (lambda v: v.update(title=3), "title"),
        (lambda v: v.update(columns="abc"), "columns"),
        (lambda v: v["verdict"].append([1]), "verdict"),
        (lambda v: v["lines"][0].update(tone="loud"), "lines"),
        (lambda v: v["lines"][0].update(tone=[]), "lines"),
        (lambda v: v["parts"][0].update(before=-1), "parts"),
        (lambda v: v["parts"][0].update(after=True), "parts"),
        (lambda v: v["frozen"].append({"text": "x", "count": "1", "where": []}), "frozen"),
        (lambda v: v["frozen"].append({"text": "x", "count": 1, "where": [1]}), "frozen"),
        (lambda v: v["attempts"][0].update(share=7), "share"),
        (lambda v: v.update(seconds={"a": "b"}), "seconds"),
        (lambda v: v.update(seconds={"a": float("nan")}), "JSON"),
        (lambda v: v.update(versions={"a": 1}), "versions"),
        (lambda v: v.update(notes=[{}]), "notes"),
        (lambda v: v.pop("panels"), "fields"),
        (lambda v: v.update(panels={}), "panels"),
    ],
)
def test_anything_else_is_refused(
    result: Result, change: Callable[[dict[str, Any]], None], match: str
) -> None:
    value = json.loads(full(result).to_json())
    change(value)
    with pytest.raises(FileError, match=match):
        Facts.from_json(json.dumps(value))


def test_a_frontier_shows_where_the_result_lies(result: Result) -> None:
    front = Frontier("Deep", "params", Point(1, 100, 0.9), (Point(0.5, 50, 0.8),))
    plain = Facts.of(result, also=[front]).panels[0]
    assert plain.title == "Trade-off"
    assert plain.chart is not None
    assert [mark.kind for mark in plain.chart.marks] == ["dense", "best"]
    judged = replace(result, after=replace(result.after, quality=0.85))
    panel = Facts.of(judged, also=[front]).panels[0]
    assert panel.chart is not None
    assert (panel.chart.marks[-1].x, panel.chart.marks[-1].y) == (result.after.params, 0.85)
    assert panel.chart.marks[-1].kind == "chosen"
    with pytest.raises(InputError, match="cannot show a int"):
        Facts.of(result, also=[3])  # type: ignore[list-item]


@pytest.mark.parametrize("text", ["", "[", "3", "[" * 100_000, "{}"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(FileError):
        Facts.from_json(text)
