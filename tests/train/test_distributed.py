"""Two processes under torchrun: both decide alike, and as one process alone does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from several import LOOKS, RECIPES, run

SCRIPT = Path(__file__).with_name("several.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo"
    ),
]


def together(way: str, names: Iterable[str], folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(SCRIPT), way, ",".join(names), str(folder)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def test_processes_that_look_at_other_data_decide_alike(tmp_path: Path) -> None:
    together("ddp", LOOKS, tmp_path)
    for name in LOOKS:
        first, second = (
            torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True)["weights"]
            for rank in (0, 1)
        )
        assert all(torch.equal(first[key], second[key]) for key in first), name
        if name == "snip":  # the mean gradient of both parts is that of the whole
            for key, weight in run("alone", name)["weights"].items():  # type: ignore[attr-defined]
                torch.testing.assert_close(first[key], weight)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_do_as_one(way: str, tmp_path: Path) -> None:
    together(way, RECIPES, tmp_path)
    for name in RECIPES:
        alone = run("alone", name)
        first, second = (
            torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1)
        )
        assert first["events"] == second["events"], name
        for mine, theirs in zip(alone["events"], first["events"], strict=True):  # type: ignore
            assert mine == pytest.approx(theirs), name
        for key, weight in alone["weights"].items():  # type: ignore[attr-defined]
            assert torch.equal(first["weights"][key], second["weights"][key]), (name, key)
            found = first["weights"][key]
            assert torch.equal(found == 0, weight == 0), (name, key)
            torch.testing.assert_close(found, weight, msg=lambda m: f"{name} {key}: {m}")  # noqa: B023
        whole = sum(alone["sizes"].values())  # type: ignore[attr-defined]
        for found in (first, second):  # bytes of masks: halves, up to their last bytes
            part = sum(found["sizes"].values())
            assert part == whole if way == "ddp" else whole / 2 <= part < whole / 2 + 3, name
