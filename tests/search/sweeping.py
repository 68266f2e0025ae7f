"""What the tests of sweeps explore; a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

TREE = {
    "budget": {"macs": {"low": 0.2, "high": 0.8}},
    "multiple": {"choice": [1, 8]},
    "recover": {"choice": ["none", ["a", {"b": {"epochs": {"low": 1, "high": 3}}}]]},
}


def work(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Quality falls as the network gets smaller, and faster with 8."""
    share = tree["budget"]["macs"]
    if share < 0.25:
        return {"failed": "out of reach"}
    quality = share**0.5 - 0.1 * (tree["multiple"] == 8)
    after = {"params": 100 * share, "macs": 1000 * share, "bytes": 1.0, "quality": quality}
    before = {"params": 100.0, "macs": 1000.0, "bytes": 1.0, "quality": 1.0}
    return {"before": before, "after": {**after, "pid": os.getpid()}}
