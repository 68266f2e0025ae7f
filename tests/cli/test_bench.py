from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from secateur.cli import app

NET = "secateur.demo.net:DigitNet"
RUN = CliRunner()


def test_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    arguments = ["bench", NET, "-i", "1,1,8,8", "--engines", "eager", "--seconds", "0.01"]
    found = RUN.invoke(app, [*arguments, "--sparsity", "90", "--threads", "1", "--json"])
    assert found.exit_code == 0, found.stderr
    value = json.loads(found.stdout)
    assert value["best"] == "eager" and list(value["levels"]) == ["0.9"]
    assert value["levels"]["0.9"]["threads"] == 1
    assert torch.get_num_threads() == threads


def test_what_makes_no_sense() -> None:
    found = RUN.invoke(app, ["bench", NET, "-i", "1,1,8,8", "--sparsity", "100"])
    assert found.exit_code == 1 and "expected shares" in found.stderr
    found = RUN.invoke(
        app, ["bench", NET, "-i", "1,1,8,8", "--sparsity", "90", "--engines", "caffe"]
    )
    assert found.exit_code == 1 and "no engine 'caffe'" in found.stderr
