"""What networks that adapt take: on a quiet machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from quality_cases import CASES
from torch import nn

import secateur as sc
from secateur.measure.clock import compare
from secateur.runtime.kernels import skip

Row = dict[str, Any]
GUARANTEES = {"digitcnn": 0.98, "resnet20": 0.95, "char_gpt": 0.9}
MATRICES = ((1024, 1024), (2048, 2048), (4096, 4096), (2048, 8192), (8192, 2048))


def deadline() -> Row:
    """Latencies of levels, switching, and deadlines that are kept in 1,000 calls."""
    found: Row = {}
    for name, build in _dials().items():
        dial, x = build()
        first = {level: _once(partial(dial._at, level)) for level in dial.levels[1:]}
        table = dial.measure(x, min_time=0.4)
        dense = table[1.0].median_ms
        row: Row = {
            "ms": {f"{level:g}": taken.median_ms for level, taken in table.items()},
            "ratio": {f"{level:g}": taken.median_ms / dense for level, taken in table.items()},
            "unpack_ms": max(first.values()),
            "switch_us": 1000 * _switching(dial),
            "memory": dial.memory.times,
        }
        row["deadlines"] = _deadlines(dial, x, 1000 if dense < 20 else 100)
        found[name] = row
        print(name, row, flush=True)
    return found


def _dials() -> dict[str, Callable[[], tuple[Any, Any]]]:
    def resnet20(cost: str) -> tuple[Any, Any]:
        case = CASES["resnet20"]()
        make = partial(sc.dial, case.build(), case.example, data=case.data(), cost=cost)
        return _reachable(make), case.example[0]

    def resnet50() -> tuple[Any, Any]:
        import torchvision

        x = torch.randn(1, 3, 224, 224)
        return sc.dial(torchvision.models.resnet50().eval(), x), x

    return {
        "ResNet-20, by MACs": partial(resnet20, "macs"),
        "ResNet-20, by latency": partial(resnet20, "latency"),
        "ResNet-50 (random weights), by MACs": resnet50,
    }


def _reachable(make: Callable[..., Any]) -> Any:
    """The dial with the lowest levels that there can be: some time is left without channels."""
    for levels in ((0.75, 0.5, 0.25), (0.8, 0.65, 0.5), (0.9, 0.8, 0.65), (0.95, 0.9, 0.85)):
        try:
            return make(levels=[1.0, *levels])
        except sc.errors.InfeasibleBudget as error:
            print(error, flush=True)
    raise SystemExit("no level is reachable")


def _once(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _switching(dial: Any) -> float:
    """Milliseconds from one level that is in memory to another."""
    start = time.perf_counter()
    for k in range(10_000):
        level = dial.levels[k % len(dial.levels)]
        dial.set(level)
        dial._at(level)
    dial.set(1.0)
    return (time.perf_counter() - start) / 10


def _deadlines(dial: Any, x: Any, calls: int) -> Row:
    """Deadlines a little above what each level is known to need, and one that none can hold."""
    bounds = dial.bounds
    met, chosen = 0, {f"{level:g}": 0 for level in dial.levels}
    with torch.no_grad():
        for k in range(calls):
            ms = 1.02 * bounds[dial.levels[k % len(dial.levels)]]
            start = time.perf_counter()
            with dial.within(ms):
                dial(x)
                chosen[f"{dial.level:g}"] += 1
            met += 1000 * (time.perf_counter() - start) <= ms
    try:
        dial.within(0.5 * min(bounds.values()))
        refused = False
    except sc.errors.InfeasibleBudget:
        refused = True
    return {"calls": calls, "met": met / calls, "chosen": chosen, "infeasible_refused": refused}


def activations() -> Row:
    """One row at a time: matrices, recurrent layers, an MLP of a decoder, at 50 %."""
    rows = []
    for k, n in MATRICES:
        weight, bias, x = torch.randn(n, k) / k**0.5, torch.randn(n), torch.randn(k)
        columns, threshold = weight.t().contiguous(), float(x.abs().median())
        linear = nn.functional.linear
        runs: dict[str, Any] = {
            "linear": partial(linear, x[None], weight, bias),
            "transposed": partial(linear, x[None], columns.t(), bias),
            "mv": partial(torch.addmv, bias, weight, x),
            "skipping": partial(skip.skipping, x, columns, bias, threshold),
        }
        times = compare(runs, min_time=0.5)
        best = min(times[name].median_ms for name in ("linear", "transposed", "mv"))
        rows.append({"shape": [n, k], "dense_ms": best, "ms": times["skipping"].median_ms})
        print(rows[-1], flush=True)
    models = {
        "LSTM 1024, 2 layers, a step": (nn.LSTM(1024, 1024, 2), torch.randn(1, 1, 1024)),
        "GRU 1024, 2 layers, 30 steps": (nn.GRU(1024, 1024, 2), torch.randn(30, 1, 1024)),
        "MLP 1024-4096-1024": (
            nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)),
            torch.randn(1, 1024),
        ),
    }
    whole = []
    for name, (model, x) in models.items():
        holder = nn.Sequential(model).eval()
        data = [torch.randn(*x.shape[:-2], 40, 1024) if x.dim() > 2 else torch.randn(80, 1024)]
        lazy = sc.adapt.activations(holder, data, samples=80, only_faster=False)
        times = compare({"dense": partial(holder, x), "lazy": partial(lazy, x)}, min_time=0.5)
        whole.append({
            "name": name, "dense_ms": times["dense"].median_ms, "ms": times["lazy"].median_ms,
            "read": 1 - lazy.skipped,
        })  # fmt: skip
        print(whole[-1], flush=True)
    return {"matrices": rows, "models": whole}


def gates() -> Row:
    """Single samples of trained and of random networks; what gains nothing is refused."""
    import torchvision

    case = CASES["resnet20"]()
    image = torch.randn(16, 3, 224, 224)
    models: dict[str, tuple[nn.Module, Any]] = {
        "ResNet-18, 224 x 224": (torchvision.models.resnet18().eval(), image),
        "MobileNetV2, 224 x 224": (torchvision.models.mobilenet_v2().eval(), image),
        "CIFAR-10 ResNet-20": (case.build(), case.calibration.inputs[0][:64]),
        "MLP 1536-6144-1536": (
            nn.Sequential(nn.Linear(1536, 6144), nn.ReLU(), nn.Linear(6144, 1536)).eval(),
            torch.randn(256, 1536),
        ),
    }
    found: Row = {}
    for name, (model, x) in models.items():
        try:
            gated = sc.gate(model, [x], keep=0.5, samples=len(x), recover=False)
        except sc.errors.RecipeError as error:
            found[name] = {"refused": error.message}
        else:
            runs = {"dense": partial(model, x[:1]), "gated": partial(gated, x[:1])}
            times = compare(runs, min_time=0.5)
            found[name] = {
                "dense_ms": times["dense"].median_ms, "ms": times["gated"].median_ms,
                "gates": len(gated.gates), "notes": list(gated.notes),
                "batches": {n: [a.median_ms, b.median_ms] for n, (a, b) in gated.times.items()},
            }  # fmt: skip
        print(name, found[name], flush=True)
    return found


def exits(names: Sequence[str]) -> Row:
    """The mean latency of single samples that leave where they may."""
    found: Row = {}
    for name in names:
        case, guarantee = CASES[name](), GUARANTEES[name]
        model, data = case.build(), case.selection.inputs[0][:2000]
        early = sc.adapt.exits(model, list(data.split(100)), guarantee=guarantee, samples=2000)
        dense, lazy = list[float](), list[float]()
        with torch.no_grad():
            for k in range(300):
                x = case.report.inputs[0][k : k + 1]
                dense.append(_once(partial(model, x)))
                lazy.append(_once(partial(early, x)))
        found[name] = {
            "case": case.name, "guarantee": guarantee, "dense_ms": sum(dense[20:]) / 280,
            "ms": sum(lazy[20:]) / 280, "dense_median": median(dense), "median": median(lazy),
            "work": early.mean_cost, "agreement": early.agreement, "at": early.names,
            "leaving": early.leaving, "notes": early.notes,
        }  # fmt: skip
        print(name, found[name], flush=True)
    return found


def load() -> Row:
    """The example server under three times the load."""
    import json

    script = Path(__file__).parents[1] / "examples" / "serve.py"
    command = [sys.executable, str(script), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
