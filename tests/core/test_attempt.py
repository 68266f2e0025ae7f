"""Records of a search: through JSON and back, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from secateur.core.attempt import Attempt
from secateur.core.errors import FileError

FULL = Attempt(
    "Drop(points=1.0) & Latency('60%')", 0.5, 0.499, 100, 2000, 400, 0.86, 0.01, 0.002, 500,
    1.5, 3.0, 0.01, 12345, {"Drop(points=1.0)": -0.2, "Latency('60%')": 0.1}, False, "0.012 worse",
)  # fmt: skip


@pytest.mark.parametrize("attempt", [FULL, Attempt("g", 0.25)])
def test_json_and_back(attempt: Attempt) -> None:
    assert Attempt.from_dict(json.loads(json.dumps(attempt.to_dict()))) == attempt


@pytest.mark.parametrize(
    "change",
    [
        {"share": 0}, {"share": 1.5}, {"share": "0.5"}, {"share": None}, {"share": float("nan")},
        {"left": -0.1}, {"left": 2}, {"params": -1}, {"params": 1.5}, {"macs": True},
        {"quality": float("inf")}, {"worse": "much"}, {"error": True}, {"margins": []},
        {"margins": {"a": None}}, {"margins": {1: 0.5}}, {"accepted": 1}, {"why": None},
        {"goal": 3}, {"extra": 1}, {"peak": "big"}, {"latency_ms": [1]},
    ],
)  # fmt: skip
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FileError, match="hint: the file was changed"):
        Attempt.from_dict({**FULL.to_dict(), **change})


@pytest.mark.parametrize("value", [None, [], "text", {}, {"goal": "g", "share": 0.5}])
def test_missing_fields_are_refused(value: Any) -> None:
    with pytest.raises(FileError, match="wrong fields"):
        Attempt.from_dict(value)
