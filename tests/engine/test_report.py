from __future__ import annotations

import json
from dataclasses import replace

from secateur.core.measured import Latency
from secateur.engine.report import Report, Row

BEFORE, AFTER = Latency(4.0, 0.1, 9, 1), Latency(1.0, 0.1, 9, 1)
ROW = Row("fc", "linear", 0.1, "llvm-csr 4/1", 2.0, 0.5)
REPORT = Report("Net", (ROW,), BEFORE, AFTER, True, 1e-7, 1000, 400, ("a note",))


def test_page() -> None:
    text = str(REPORT)
    assert "4.00x as fast" in text and "1.00 kB -> 400 B" in text
    assert "note: a note" in text and "llvm-csr 4/1" in text
    assert json.loads(json.dumps(REPORT.to_dict()))["gain"] == 4


def test_nothing_gained() -> None:
    slow = replace(REPORT, fast=False)
    assert slow.gain == 1 and "nothing to gain" in str(slow)
