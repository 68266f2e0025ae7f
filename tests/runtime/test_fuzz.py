"""The fuzz runs every family of kernels, finds what is wrong, and says where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fuzz
from secateur.runtime.kernels import llvm

EMITTED = [name for name in fuzz.families() if name.startswith("emit")]


@pytest.mark.parametrize("name", EMITTED)
def test_any_way_of_emitting(name: str) -> None:
    for seed in range(2):
        cases, worst = fuzz.families()[name](np.random.default_rng(seed))
        assert cases > 50 and worst < 1e-6


@pytest.mark.skipif(not llvm.available(), reason="needs llvmlite")
@pytest.mark.parametrize(
    "name", ["llvm skip", "llvm transpose", "llvm x4 gru", "llvm x4 depthwise"]
)
def test_other_kernels(name: str) -> None:
    for seed in range(5):
        cases, worst = fuzz.families()[name](np.random.default_rng(seed))
        assert cases > 0 and worst < 2e-6


def test_a_wrong_number_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def right(rng: np.random.Generator) -> tuple[int, float]:
        return 3, float(rng.random())

    def wrong(rng: np.random.Generator) -> tuple[int, float]:
        raise AssertionError("a number is off")

    monkeypatch.setattr(fuzz, "families", lambda: {"right": right, "wrong": wrong})
    fuzz.turns(str(tmp_path / "w"), 0, 1000, 60)
    count, worst, failed = json.loads((tmp_path / "w.json").read_text())
    assert count == {"right": 3} and 0 < worst["right"] < 1
    assert failed.startswith("wrong, seed 0, turn 0") and "a number is off" in failed


@pytest.mark.slow
def test_a_hundred_thousand_cases() -> None:
    found = fuzz.run(100_000, 2, 3600, 1)
    assert not found["failures"] and found["cases"] >= 100_000
    assert max(kernel["worst"] for kernel in found["kernels"].values()) < 2e-6
