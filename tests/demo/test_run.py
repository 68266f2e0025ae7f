"""The demo from start to end, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from secateur.demo.net import DigitNet
from secateur.ship import load


def test_the_demo_runs_and_says_what_it_did(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "secateur"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    for line in (
        "parameters",
        "MACs",
        "bytes",
        "latency",
        "quality",
        "verified:",
        "file:",
        "report:",
    ):
        assert re.search(f"^{line}", found.stdout, re.MULTILINE), line
    assert "loaded back: same outputs, bit for bit" in found.stdout
    before, after = re.search(r"^quality +(\S+) +(\S+)", found.stdout, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert float(before) - float(after) < 0.05
    assert (tmp_path / "secateur-demo" / "report.html").stat().st_size > 5_000
    model = load(tmp_path / "secateur-demo", into=DigitNet)
    assert sum(p.numel() for p in model.parameters()) < 100_000
