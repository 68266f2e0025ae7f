"""The command line: what goes where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from secateur.cli import app
from secateur.demo.data import WEIGHTS, digits
from secateur.demo.net import DigitNet
from secateur.ship import load
from secateur.ship.fast_file import load_fast

NET = "secateur.demo.net:DigitNet"
INPUT = ["--input", "4,1,8,8"]
RUN = CliRunner()


def test_inspect() -> None:
    found = RUN.invoke(app, ["inspect", NET, *INPUT, "--no-latency"])
    assert found.exit_code == 0
    assert found.stdout.startswith("DigitNet: 140,562 parameters")
    assert "frozen:" in found.stdout
    assert found.stderr == ""


def test_inspect_as_json() -> None:
    found = RUN.invoke(app, ["inspect", NET, *INPUT, "--json"])
    value = json.loads(found.stdout)
    assert value["whole"]["params"] == 140_562
    assert value["whole"]["latency"]["median_ms"] > 0


def test_prune_saves_what_loads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [NET, *INPUT, "--budget", "macs 50%", "-o", str(out), "--no-latency", "--json"]
    found = RUN.invoke(app, ["prune", *arguments, "--weights", str(WEIGHTS), "--multiple", "8"])
    assert found.exit_code == 0, found.stderr
    value = json.loads(found.stdout)
    assert value["after"]["macs"] <= value["before"]["macs"] / 2
    assert all(site["kept"] % 8 == 0 for site in value["sites"].values())
    assert "saved:" in found.stderr
    model = load(out, into=DigitNet)
    assert sum(p.numel() for p in model.parameters()) == value["after"]["params"]
    assert model.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_export_runs_what_was_saved(tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "small.pt2"
    arguments = [NET, *INPUT, "--budget", "macs 50%", "-o", str(out), "--no-latency"]
    RUN.invoke(app, ["prune", *arguments])
    found = RUN.invoke(app, ["export", str(out), str(path), "--into", NET, *INPUT])
    assert found.exit_code == 0, found.stderr
    assert "verified: run by PyTorch" in found.stdout
    smaller = torch.export.load(path).module()(torch.zeros(3, 1, 8, 8))
    assert torch.allclose(smaller, load(out, into=DigitNet).eval()(torch.zeros(3, 1, 8, 8)))
    found = RUN.invoke(app, ["export", str(out), "m.exe", "--into", NET, *INPUT])
    assert found.exit_code == 1
    assert "no export is known" in found.stderr


def test_report_is_drawn_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    RUN.invoke(app, ["prune", NET, *INPUT, "-b", "macs 50%", "-o", str(out), "--no-latency"])
    text = (out / "report.html").read_text(encoding="utf-8")
    (out / "report.html").unlink()
    found = RUN.invoke(app, ["report", str(out)])
    assert found.exit_code == 0
    assert found.stdout.strip() == str(out / "report.html")
    assert (out / "report.html").read_text(encoding="utf-8") == text
    found = RUN.invoke(app, ["report", str(tmp_path)])
    assert found.exit_code == 1
    assert "there is no file" in found.stderr


def test_data_is_learned_from_and_judges(tmp_path: Path) -> None:
    data = digits()
    arrays = {"x": data.held_out_images.numpy(), "y": data.held_out_labels.numpy()}
    np.savez(tmp_path / "digits.npz", **arrays)
    arguments = [NET, *INPUT, "--budget", "macs 60%", "-o", str(tmp_path / "out"), "--no-latency"]
    more = ["--data", str(tmp_path / "digits.npz"), "--samples", "64", "--weights", str(WEIGHTS)]
    found = RUN.invoke(app, ["prune", *arguments, *more, "--criterion", "l1", "--json"])
    assert found.exit_code == 0, found.stderr
    quality = json.loads(found.stdout)["quality"]
    assert quality["samples"] == 450 - 64 and quality["after"] > 0.8


def test_cycles_with_training(tmp_path: Path) -> None:
    data = digits()
    arrays = {"x": data.held_out_images.numpy(), "y": data.held_out_labels.numpy()}
    np.savez(tmp_path / "digits.npz", **arrays)
    out = tmp_path / "out"
    arguments = [NET, *INPUT, "--budget", "macs 40%", "-o", str(out), "--no-latency", "--json"]
    more = ["--data", str(tmp_path / "digits.npz"), "--samples", "200", "--weights", str(WEIGHTS)]
    ways = ["--criterion", "l1", "--cycles", "2", "--recover", "recalibrate,distill"]
    found = RUN.invoke(app, ["prune", *arguments, *more, *ways])
    assert found.exit_code == 0, found.stderr
    value = json.loads(found.stdout)
    assert value["prunes"] == 2 and len(value["search"]) == 2
    assert value["after"]["macs"] <= 0.4 * value["before"]["macs"]
    assert sum("distillation: " in text for text in value["repairs"]) == 2
    assert not (out / "search.json").exists()
    model = load(out, into=DigitNet)
    assert sum(p.numel() for p in model.parameters()) == value["after"]["params"]


def test_units_by_name(tmp_path: Path) -> None:
    common = [NET, *INPUT, "--budget", "params 95%", "-o", str(tmp_path), "--no-latency"]
    found = RUN.invoke(app, ["prune", *common, "--unit", "layer"])
    assert found.exit_code == 0, found.stderr
    assert "1 block" in found.stdout
    found = RUN.invoke(app, ["prune", *common, "--unit", "chanel"])
    assert found.exit_code == 1
    assert "did you mean channel" in found.stderr
    found = RUN.invoke(app, ["prune", *common, "--unit", "layer", "--multiple", "8"])
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("unit", "budget", "left"),
    [("weight", "sparsity 0.8", 0.2), ("2:4", None, 0.5), ("block", "sparsity 0.6", 0.4)],
)
def test_single_weights(unit: str, budget: str | None, left: float, tmp_path: Path) -> None:
    data = digits()
    arrays = {"x": data.held_out_images.numpy(), "y": data.held_out_labels.numpy()}
    np.savez(tmp_path / "digits.npz", **arrays)
    out = tmp_path / "out"
    arguments = [NET, *INPUT, "--unit", unit, "-o", str(out), "--no-latency", "--json"]
    given = [] if budget is None else ["--budget", budget]
    more = ["--data", str(tmp_path / "digits.npz"), "--samples", "64", "--weights", str(WEIGHTS)]
    ways = ["--recover", "recalibrate", "--allocate", "uniform"]
    found = RUN.invoke(app, ["prune", *arguments, *given, *more, *ways])
    assert found.exit_code == 0, found.stderr
    value = json.loads(found.stdout)
    assert value["quality"]["samples"] == 450 - 64
    weight = load(out, into=DigitNet).get_parameter("stage3.conv1.weight")
    assert float((weight != 0).float().mean()) == pytest.approx(left, abs=0.01)
    if unit == "2:4":
        rows = weight.flatten(1).reshape(len(weight), -1, 9).movedim(1, 2).reshape(-1, 4)
        assert int((rows != 0).sum(1).max()) <= 2


def test_packed(tmp_path: Path) -> None:
    """A packed network is one file; where nothing is gained, what was pruned is saved as it is."""
    pytest.importorskip("llvmlite", reason="kernels need llvmlite")
    out = tmp_path / "out"
    arguments = [NET, *INPUT, "--unit", "weight", "--budget", "sparsity 0.9", "--no-latency"]
    found = RUN.invoke(app, ["prune", *arguments, "-o", str(out), "--become", "packed"])
    assert found.exit_code == 0, found.stderr
    assert "DigitNet" in found.stdout.splitlines()[0]
    assert "packed: " in found.stdout
    if (out / "model.sct").exists():
        assert load_fast(out / "model.sct")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
        assert "DigitNet" in (out / "report.html").read_text(encoding="utf-8")
    else:
        assert load(out, into=DigitNet)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    found = RUN.invoke(app, ["prune", *arguments, "-o", str(out), "--become", "small"])
    assert found.exit_code == 1
    assert "become='small' is unknown" in found.stderr


def test_weights_do_not_go_together_with_channels(tmp_path: Path) -> None:
    common = [NET, *INPUT, "-o", str(tmp_path / "out"), "--no-latency"]
    found = RUN.invoke(app, ["prune", *common, "--unit", "weight,channel"])
    assert found.exit_code == 1 and "prune twice" in found.stderr
    found = RUN.invoke(app, ["prune", *common, "--unit", "weight", "--multiple", "8"])
    assert found.exit_code == 1 and "--multiple is for channels" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NET, "--input", "x"], "is not an input"),
        (["nothing:here", *INPUT], "there is no module nothing"),
        ([NET, *INPUT, "--weights", "none.pt"], "there is no file"),
        ([NET, "--input", "1,3,8,8"], "the model raised"),
    ],
)
def test_errors_are_messages_on_stderr(arguments: list[str], message: str) -> None:
    found = RUN.invoke(app, ["inspect", *arguments])
    assert found.exit_code == 1
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_budget_that_makes_no_sense(tmp_path: Path) -> None:
    found = RUN.invoke(app, ["prune", NET, *INPUT, "--budget", "mac 50%", "-o", str(tmp_path)])
    assert found.exit_code == 1
    assert "hint: did you mean macs?" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_status_2() -> None:
    assert RUN.invoke(app, ["inspect", NET]).exit_code == 2
    assert RUN.invoke(app, ["inspect", NET, *INPUT, "--what"]).exit_code == 2


def test_version() -> None:
    found = RUN.invoke(app, ["--version"])
    assert found.exit_code == 0
    assert found.stdout.count(".") == 2


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "secateur", "inspect", NET, *INPUT, "--no-latency"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("DigitNet")
