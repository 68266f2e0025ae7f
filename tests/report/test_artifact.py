"""A saved model's report: beside it, drawn again from its record, and never of another model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import api
from secateur.core.budget import Params
from secateur.core.errors import FileError, InputError
from secateur.core.result import Result
from secateur.report import artifact
from secateur.report.artifact import HTML, JSON, redraw, save, save_report
from secateur.ship.files import PLAN, WEIGHTS, load


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def result() -> Result:
    return api.prune(build(), torch.ones(2, 6), budget=Params("50%"), latency=False)


def test_saving_writes_a_report_that_can_be_drawn_again(result: Result, tmp_path: Path) -> None:
    assert save(result, tmp_path / "out", command="secateur prune <x>") == tmp_path / "out"
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {WEIGHTS, PLAN, JSON, HTML}
    load(out, into=build)
    text = (out / HTML).read_text(encoding="utf-8")
    assert "secateur prune &lt;x&gt;" in text
    (out / HTML).unlink()
    assert redraw(out) == out / HTML
    assert (out / HTML).read_text(encoding="utf-8") == text


def test_a_model_without_a_record_has_no_report_and_keeps_none(
    result: Result, tmp_path: Path
) -> None:
    save(result, tmp_path)
    save(result.model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, PLAN}
    with pytest.raises(FileError, match="there is no file"):
        redraw(tmp_path)


def test_damaged_reports_are_refused(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(result, tmp_path)
    text = (tmp_path / JSON).read_text()
    (tmp_path / JSON).write_text(text[:-9])
    with pytest.raises(FileError, match=r"report\.json: it is not JSON"):
        redraw(tmp_path)
    (tmp_path / JSON).write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="cannot be read"):
        redraw(tmp_path)
    (tmp_path / JSON).write_text(json.dumps({**json.loads(text), "schema": 9}))
    with pytest.raises(FileError, match="newer"):
        redraw(tmp_path)
    monkeypatch.setattr(artifact, "MOST", 10)
    with pytest.raises(FileError, match="too large"):
        redraw(tmp_path)


def test_a_report_alone(result: Result, tmp_path: Path) -> None:
    path = save_report(result, tmp_path / "r.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="a report is HTML"):
        save_report(result, tmp_path / "r.pdf")
    with pytest.raises(InputError, match="not of a Sequential"):
        save_report(result.model, tmp_path / "r.html")  # type: ignore[arg-type]
    with pytest.raises(FileError, match="cannot be written"):
        save_report(result, tmp_path / "none" / "r.html")


def test_names_that_are_no_unicode_are_written_as_they_can_be(
    result: Result, tmp_path: Path
) -> None:
    save(result, tmp_path, command="\ud800")
    assert "\\ud800" in redraw(tmp_path).read_text(encoding="utf-8")


def test_notebooks_show_a_table(result: Result) -> None:
    text = result._repr_html_()
    assert text.startswith('<h3 class="plain">Sequential</h3>')
    assert "<table>" in text
    assert "<svg" in text


def test_what_else_was_made_is_shown_and_kept(result: Result, tmp_path: Path) -> None:
    scan = api.sensitivity(build(), torch.randn(8, 6), data=[torch.randn(8, 6)], levels=[0.5])
    save(result, tmp_path / "out", also=[scan])
    text = (tmp_path / "out" / HTML).read_text(encoding="utf-8")
    assert "<h2>Sensitivity of each place</h2>" in text
    assert "relative difference of the outputs" in text
    redraw(tmp_path / "out")
    assert (tmp_path / "out" / HTML).read_text(encoding="utf-8") == text
    path = save_report(result, tmp_path / "r.html", also=[scan])
    assert "<h2>Sensitivity of each place</h2>" in path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="cannot show a str"):
        save(result, tmp_path / "none", also=["x"])  # type: ignore[list-item]
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_report_of_all_that_there_is(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="features are selected by training")
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    net, held = build(), [(x[300:], y[300:])]
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    session = sc.attach(net, optimizer, sc.presets.rigl(sparsity=0.5, every=5, end=60))
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[:300]), y[:300]).backward()
        optimizer.step()
    accuracy = sc.Accuracy(held)
    found = sc.prune(
        net, data=[(x[:300], y[:300])], evaluate=accuracy, schedule=sc.Steps(2),
        budget=sc.MACs("60%"),
    )  # fmt: skip
    also = [
        session,
        sc.frontier(net, data=x[:300], evaluate=accuracy, points=2),
        sc.sensitivity(net, data=x[:300], evaluate=accuracy),
        sc.rank_units(found.model, held),
        sc.circuit(found.model, held, edges=True, passes=60),
        sc.features(net, [(x[:300], y[:300])], evaluate=accuracy, seeds=2),
    ]
    out = save(found, tmp_path / "out", also=also)
    text = (out / HTML).read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[:3] == ["Verdict", "Network", "Search"]
    assert len(titles) >= 3 + len(also)
    for words in (
        "cycle 2 of 2",
        "with 95% confidence",
        "verified:",
        "spread",
        "edges between units",
    ):
        assert words in text, words
    (out / HTML).unlink()
    assert redraw(out).read_text(encoding="utf-8") == text
