"""The cache on disk: what is written is read, what is broken is ignored, nothing ever raises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.measure.latency_cache import VERSION, TimeCache, conditions

HERE = {"device": "cpu: a", "threads": "1"}


def written(folder: Path, **times: float) -> TimeCache:
    cache = TimeCache(folder, HERE)
    for key, value in times.items():
        cache[key] = value
    cache.save()
    return cache


def test_what_is_saved_is_read_under_the_same_conditions_only(tmp_path: Path) -> None:
    written(tmp_path, a=0.5, b=1e-9)
    assert TimeCache(tmp_path, HERE).get("a") == 0.5
    assert TimeCache(tmp_path, dict(reversed(HERE.items()))).get("b") == 1e-9
    assert TimeCache(tmp_path, {**HERE, "threads": "2"}).get("a") is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_two_writers_keep_each_other_s_times(tmp_path: Path) -> None:
    first, second = TimeCache(tmp_path, HERE), TimeCache(tmp_path, HERE)
    first["a"], second["b"] = 1.0, 2.0
    first.save()
    second.save()
    both = TimeCache(tmp_path, HERE)
    assert (both.get("a"), both.get("b")) == (1.0, 2.0)


def test_two_processes_leave_a_valid_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from secateur.measure.latency_cache import TimeCache\n"
        f"cache = TimeCache(Path(sys.argv[1]), {HERE!r})\n"
        "for k in range(60):\n"
        "    cache[f'{sys.argv[2]}{k}'] = 1.0 * k\n"
        "    cache.save()\n"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            env={**os.environ, "PYTHONPATH": path},
        )
        for name in "xy"
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    [file] = tmp_path.iterdir()
    times = json.loads(file.read_text())["times"]
    assert 59.0 in (times.get("x59"), times.get("y59"))  # the last to write has what it wrote
    assert all(times[key] == float(key[1:]) for key in times)


def corrupted(text: str) -> list[str]:
    whole = json.loads(text)
    bad: list[Any] = [
        {**whole, "extra": 1},
        {k: v for k, v in whole.items() if k != "times"},
        {**whole, "version": VERSION + 1},
        {**whole, "conditions": {**HERE, "threads": "9"}},
        {**whole, "times": [1.0]},
        {**whole, "times": {"a": "0.5"}},
        {**whole, "times": {"a": -1.0}},
        {**whole, "times": {"a": True}},
        [],
        None,
    ]
    texts = [json.dumps(item) for item in bad]
    return [*texts, "", text[: len(text) // 2], text.replace("0.5", "NaN"), "[" * 100_000]


@pytest.mark.parametrize("number", range(14))
def test_a_corrupt_cache_is_ignored_and_replaced(tmp_path: Path, number: int) -> None:
    path = written(tmp_path, a=0.5).path
    assert path is not None
    broken = corrupted(path.read_text())
    assert len(broken) == 14
    path.write_text(broken[number])
    assert TimeCache(tmp_path, HERE).get("a") is None
    written(tmp_path, b=2.0)
    again = TimeCache(tmp_path, HERE)
    assert (again.get("a"), again.get("b")) == (None, 2.0)


def test_bytes_that_are_no_text_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, a=0.5).path
    assert path is not None
    path.write_bytes(b"\xff\xfe\x00")
    assert TimeCache(tmp_path, HERE).get("a") is None


def test_where_nothing_can_be_written_there_is_no_cache(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    cache = written(occupied / "below", a=0.5)
    assert cache.get("a") == 0.5  # for this run
    assert TimeCache(occupied / "below", HERE).get("a") is None
    assert written(tmp_path, a=0.5).path != occupied
    blocked = TimeCache(tmp_path, {"device": "other"})
    assert blocked.path is not None
    blocked.path.mkdir()
    blocked["a"] = 1.0
    blocked.save()
    assert not list(tmp_path.glob("*.tmp"))


def test_conditions_tell_machines_and_threads_apart() -> None:
    one, two = (conditions(torch.device("cpu"), n) for n in (1, 2))
    assert one != two and one["torch"] == torch.__version__
    assert one["device"].startswith("cpu: ")
