"""`sc.compile` beside DeepSparse, the engine that made zeros fast and is no longer maintained.

    python3.11 -m venv ds && ds/bin/pip install deepsparse==1.8.0
    taskset -c 0 python benchmarks/runtime.py resnet50-1 --deepsparse ds/bin/python

DeepSparse reads the same weights as ONNX, in a process of its own that inherits the pinned core.
The two are timed in turns, each by its own clock around the call, so that no pipe is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.api.bench import zeroed
from secateur.core.batches import as_call
from secateur.core.cache import folder_of
from secateur.core.measured import Latency
from secateur.engine.capture import capture
from secateur.engine.compiler import compile_model
from secateur.measure.clock import steady, summary

TURN = 0.05  # seconds of one's turn, or one call
RUNS = 20
OPSET = 14
Timed = Callable[[int], list[float]]


class Worker:
    """The other Python with DeepSparse in it."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).with_name("deepsparse_worker.py")
        quiet = {**os.environ, "NM_DISABLE_ANALYTICS": "1"}
        quiet.pop("PYTHONPATH", None)  # its packages are not ours
        self._process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
        )

    def ask(self, **wanted: object) -> dict[str, Any]:
        """One answer for one request."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps(wanted), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("DeepSparse ended; what it said is above")
        return json.loads(line)

    def timed(self, runs: int) -> list[float]:
        """Seconds of so many calls."""
        return self.ask(runs=runs)["seconds"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def measured(
    model: nn.Module, x: torch.Tensor, shares: Sequence[float], seconds: float, python: str
) -> dict[str, Any]:
    """Both at every sparsity. seconds: that each is timed at least."""
    call, threads = as_call(model, x), torch.get_num_threads()
    captured = capture(model, call)
    levels: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    with Worker(python) as worker, tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.npy") for name in ("inputs", "outputs")}
        np.save(files["inputs"], x.numpy())
        for share in shares:
            twin = zeroed(model, share)
            network = compile_model(twin, call, folder_of(True), captured)
            path = str(Path(folder) / "model.onnx")
            _export(twin, x, path)
            engine = worker.ask(model=path, batch=len(x), threads=threads, **files)
            theirs = torch.from_numpy(np.load(files["outputs"]))
            expected = twin(x)
            times = in_turns({"secateur": _calls(network, x), "deepsparse": worker.timed}, seconds)
            levels[str(share)] = {
                **{name: asdict(spent) for name, spent in times.items()},
                "difference": {
                    "secateur": _difference(network(x), expected),
                    "deepsparse": _difference(theirs, expected),
                },
                "supported": engine["supported"],
            }
            print(share, {n: round(t.median_ms, 3) for n, t in times.items()},
                  levels[str(share)]["difference"], flush=True)  # fmt: skip
    named = f"DeepSparse {engine['version']}"
    return {"beside": named, "instructions": engine["instructions"], "levels": levels}


def in_turns(engines: dict[str, Timed], seconds: float) -> dict[str, Latency]:
    """Each until it has run long enough, up to five times as long where the times scatter."""
    turns = {name: max(1, int(TURN / min(timed(3)))) for name, timed in engines.items()}
    taken: dict[str, list[float]] = {name: [] for name in engines}
    while not all(_enough(runs, seconds) for runs in taken.values()):
        for name, timed in engines.items():
            taken[name] += timed(turns[name])
    threads = torch.get_num_threads()
    return {name: summary(runs, threads, "cpu", False) for name, runs in taken.items()}


def table(part: dict[str, Any]) -> list[str]:
    """Rows of Markdown."""
    lines = [
        f"{part['beside']} chose its {part['instructions']} code.",
        "",
        f"| zeros | secateur ms | spread | {part['beside']} ms | spread | times as fast |",
        "|---|---|---|---|---|---|",
    ]
    for share, level in sorted(part["levels"].items()):
        ours, theirs = level["secateur"], level["deepsparse"]
        both = [f"{t['median_ms']:.2f} | {t['spread_ms']:.2f}" for t in (ours, theirs)]
        ratio = theirs["median_ms"] / ours["median_ms"]
        lines.append(f"| {float(share):.0%} | {' | '.join(both)} | {ratio:.2f} |")
    return lines


def _calls(network: nn.Module, x: torch.Tensor) -> Timed:
    def timed(runs: int) -> list[float]:
        seconds = []
        for _ in range(runs):
            start = perf_counter()
            network(x)
            seconds.append(perf_counter() - start)
        return seconds

    return timed


def _enough(taken: list[float], seconds: float) -> bool:
    if len(taken) < RUNS or sum(taken) < seconds:
        return False
    return steady(taken) or sum(taken) >= 5 * seconds


def _export(model: nn.Module, x: torch.Tensor, path: str) -> None:
    """By tracing: DeepSparse does not read the operators of the newer exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, dynamo=False, opset_version=OPSET, verbose=False)


def _difference(outputs: torch.Tensor, expected: torch.Tensor) -> float:
    return float((outputs - expected).abs().max() / expected.abs().max())
