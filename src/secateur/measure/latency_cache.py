"""The cache of measured times: a JSON file by machine, safe to share, safe to lose."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import torch

VERSION = 2  # higher where kernels of the same names take other times
_MOST = 50_000


def conditions(device: torch.device, threads: int) -> dict[str, str]:
    """What times depend on besides the operation: machine, device, versions, threads, precision.

    Example:
        >>> conditions(torch.device("cpu"), 2)["threads"]
        '2'
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {os.cpu_count()} cores"
    return {
        "device": f"{device.type}: {name}",
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "threads": str(threads),
        "precision": torch.get_float32_matmul_precision(),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


class TimeCache:
    """Times in seconds by key, on disk where that is possible.

    What is on disk and not a valid cache (truncated, of another version or machine, with unknown
    fields) is ignored, and replaced when something is saved. Writes are atomic, and merge with what
    another process has written since. Where nothing can be read or written, there is no cache.

    Example:
        >>> cache = TimeCache(None, {"device": "cpu: mine"})
        >>> cache["dense 3x4"] = 0.25
        >>> cache.save()
        >>> cache.get("dense 3x4"), cache.get("dense 9x9")
        (0.25, None)
    """

    def __init__(self, folder: Path | None, given: Mapping[str, str]) -> None:
        self.conditions = dict(given)
        label = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()
        self.path = None if folder is None else folder / f"latency-{label[:16]}.json"
        self._times = self._read()
        self._new: dict[str, float] = {}

    def get(self, key: str) -> float | None:
        """The time of an operation, if it is known."""
        return self._times.get(key)

    def __setitem__(self, key: str, seconds: float) -> None:
        """Remember a time; `save` writes it."""
        self._times[key] = self._new[key] = seconds

    def save(self) -> None:
        """Write what is new, if there is anything; never raises for a disk that cannot be used."""
        if self.path is None or not self._new:
            return
        merged = {**self._read(), **self._new}
        times = dict(list(merged.items())[-_MOST:])
        content = {"version": VERSION, "conditions": self.conditions, "times": times}
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            Path(temporary).replace(self.path)
            self._new = {}
        except OSError:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink()

    def _read(self) -> dict[str, float]:
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return dict(found["times"]) if self._valid(found) else {}

    def _valid(self, found: Any) -> bool:
        """Whether this is a whole cache of this version for these conditions, and nothing else."""
        return (
            type(found) is dict
            and found.keys() == {"version", "conditions", "times"}
            and found["version"] == VERSION
            and found["conditions"] == self.conditions
            and type(found["times"]) is dict
            and all(type(v) is float and isfinite(v) and v >= 0 for v in found["times"].values())
        )
