"""`secateur sweep`: a table, JSON, a curve; it goes on; mistakes are messages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from secateur.cli import app
from secateur.demo.data import WEIGHTS, digits

RUN = CliRunner()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = digits()
    np.savez(
        tmp_path / "digits.npz",
        x=data.held_out_images.numpy(),
        y=data.held_out_labels.numpy(),
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""
model: secateur.demo.net:DigitNet
weights: {WEIGHTS}
input: "2,1,8,8"
data: {tmp_path / "digits.npz"}
samples: 64
trials: 3
prune:
  criterion: {{choice: [l1, group_l2]}}
  budget: {{macs: {{low: 0.2, high: 0.7}}}}
  recover: {{choice: [none, [recalibrate]]}}
"""
    )
    return path


def test_a_table_a_curve_and_going_on(recipe: Path) -> None:
    curve = recipe.with_name("front.svg")
    first = RUN.invoke(app, ["sweep", str(recipe), "--trials", "2", "--plot", str(curve)])
    assert first.exit_code == 0, first.stderr
    assert first.stdout.startswith("recipe: 2 prunes, ") and "budget.macs" in first.stdout
    assert "2 new trials; the study 'recipe' is in sqlite:///" in first.stderr
    assert curve.read_text().startswith("<svg")
    second = RUN.invoke(app, ["sweep", str(recipe), "--json"])
    assert second.exit_code == 0, second.stderr
    value = json.loads(second.stdout)
    assert "1 new trials" in second.stderr and len(value["trials"]) == 3
    for trial in value["trials"]:
        share = trial["values"]["macs"] / value["before"]["macs"]
        assert share <= trial["settings"]["budget.macs"] and trial["values"]["quality"] > 0.05
    assert value["frontier"]["dense"]["macs"] == value["before"]["macs"]
    assert recipe.with_suffix(".db").exists()


def test_failures_are_told_and_do_not_end_it(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("{macs:", "{sparsity: 0.0, macs:"))
    text = recipe.read_text().replace("{low: 0.2, high: 0.7}", "{choice: [0.0001, 0.6]}")
    recipe.write_text(text.replace("trials: 3", "trials: 6").replace("[l1, group_l2]", "[l1]"))
    found = RUN.invoke(app, ["sweep", str(recipe)])
    assert found.exit_code == 0, found.stderr
    assert "recipe: 6 prunes" in found.stdout and "failed (trial" in found.stdout


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("l1,", "l1,"), ["--workers", "0"], "expected at least 1"),
        (("l1,", "l1,"), ["--ray", "auto", "--workers", "2"], "Ray has its own workers"),
        (("criterion", "criterium"), [], "did you mean criterion"),
        (("DigitNet", "DigitNat"), [], "did you mean DigitNet"),
        (("choice: [none, [recalibrate]]", "choice: []"), [], "expected {choice"),
    ],
)
def test_mistakes(recipe: Path, change: tuple[str, str], options: list[str], message: str) -> None:
    recipe.write_text(recipe.read_text().replace(*change))
    found = RUN.invoke(app, ["sweep", str(recipe), *options])
    assert found.exit_code == 1 and message in found.stderr and found.stdout == ""


@pytest.mark.slow
def test_workers(recipe: Path) -> None:
    found = RUN.invoke(app, ["sweep", str(recipe), "--workers", "2"])
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith("recipe: 3 prunes")
