"""Every kernel on random layers, in buffers between forbidden pages, against float64.

    python tests/runtime/fuzz.py --cases 100000 --processes 10 --seconds 170 --out fuzz.json

A case is one run of a kernel. All instruction sets that this processor has are taken. An access
beyond a buffer ends a process, a wrong number stops it: both are reported, with the seed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import depthwise_fuzz
import matvec_fuzz
import numpy as np
import planes_fuzz
import rnn_reference
import torch
from guarded import guarded

from secateur.runtime.emit.isa import FORMS, Isa
from secateur.runtime.emit.order import Tile
from secateur.runtime.emit.planes import EmittedKernel, Loop, Way, available
from secateur.runtime.emit.straight import registers
from secateur.runtime.kernels import bcsr, csr, llvm, skip
from secateur.runtime.kernels.activated import ActivatedKernel, plain
from secateur.runtime.kernels.bcsr import BcsrKernel
from secateur.runtime.kernels.csr import CsrKernel
from secateur.runtime.kernels.transpose import _native, transpose
from secateur.runtime.machine import features
from secateur.runtime.planes import ACTIVATIONS, Kernel, Planes

Draw = Callable[[np.random.Generator], tuple[int, float]]  # runs some cases: how many, worst error
TILES = [csr.Tile(1), csr.Tile(2), csr.Tile(3, 2), csr.Tile(4), csr.Tile(6, 3), csr.Tile(13)]

BLOCKS = [bcsr.Tile(1, 1), bcsr.Tile(4, 3), bcsr.Tile(6, 2), bcsr.Tile(2, 4), bcsr.Tile(5, 1)]


def families() -> dict[str, Draw]:
    """What can be run on this machine: kernels by name."""
    found: dict[str, Draw] = {}
    for isa in available():
        for kind in ("loop", "packed loop", "straight"):
            found[f"emit {isa.name} {kind}"] = emitted(isa, kind)
    if not llvm.available():
        return found
    for name, target in targets().items():
        found[f"llvm {name} csr"] = compiled(target)
        found[f"llvm {name} bcsr"] = full(target)
        found[f"llvm {name} depthwise"] = windows(target)
        for kind in matvec_fuzz.KINDS:
            if kind.startswith("windowed") and not target.picks:
                continue
            found[f"llvm {name} {kind}"] = vectors(target, kind)
        for kind in rnn_reference.KINDS:
            found[f"llvm {name} {kind}"] = recurrent(target, kind)
    return found | {"llvm skip": skipping, "llvm transpose": turned}


def targets() -> dict[str, llvm.Target]:
    """Kinds of processors whose code runs here, by the width of their vectors."""
    host = llvm.host()
    known = {host.lanes: host}
    if host.triple.startswith("x86_64"):
        known[4] = llvm.Target(host.triple, "x86-64", "", 4, 16, fused=False)
    if host.lanes > 8:
        known[8] = llvm.Target(host.triple, "x86-64-v3", "", 8, 16)
    return {f"x{lanes}": target for lanes, target in known.items()}


def form(rng: np.random.Generator, activations: Any) -> tuple[str, bool, bool]:
    """Activation, residual, mask."""
    return str(rng.choice(list(activations))), bool(rng.integers(2)), bool(rng.integers(2))


def emitted(isa: Isa, kind: str) -> Draw:
    """Any way of an instruction set, within its registers."""

    def draw(rng: np.random.Generator) -> tuple[int, float]:
        way = some_way(rng, isa, kind)
        layers, runs = (12, 10) if isinstance(way, Loop) else (4, 20)

        def make(layer: Planes) -> Kernel:
            if layer.activation in FORMS:
                return EmittedKernel(layer, way, isa)
            return ActivatedKernel(EmittedKernel(plain(layer), way, isa), layer)

        known = ACTIVATIONS if llvm.available() else FORMS
        return layers * runs, planes_fuzz.fuzz(rng, make, form(rng, known), layers, runs)

    return draw


def some_way(rng: np.random.Generator, isa: Isa, kind: str) -> Way:
    columns, code = (int(2 ** rng.uniform(7, 15)) for _ in range(2))
    rows, vectors = (int(n) for n in rng.integers(1, isa.registers - 1, 2))
    ahead = bool(rng.integers(2))
    if kind != "straight":
        packed = kind == "packed loop"  # takes a register more
        return Loop(min(vectors, isa.registers - 2 - packed), columns, rows, packed, ahead=ahead)
    way = Tile(rows, vectors, int(rng.integers(1, 4)), columns, code, ahead)
    return way if registers(way, isa) <= isa.registers else some_way(rng, isa, kind)


@contextmanager
def host(target: llvm.Target) -> Iterator[None]:
    """Make code for another processor than LLVM says this is."""
    real = llvm.host
    llvm.host = lambda: target  # type: ignore
    _native.cache_clear()
    try:
        yield
    finally:
        llvm.host = real
        _native.cache_clear()


def compiled(target: llvm.Target) -> Draw:
    """Compressed rows, which take all activations."""

    def draw(rng: np.random.Generator) -> tuple[int, float]:
        number = int(rng.integers(len(TILES)))
        activation = str(rng.choice(ACTIVATIONS))
        given = (activation, number % 2 == 0, number % 3 == 0)  # code is made for each
        with host(target):
            return 64, planes_fuzz.fuzz(rng, lambda p: CsrKernel(p, TILES[number]), given, 8, 8)

    return draw


def full(target: llvm.Target) -> Draw:
    """Blocks of rows."""

    def draw(rng: np.random.Generator) -> tuple[int, float]:
        tile = BLOCKS[int(rng.integers(len(BLOCKS)))]
        with host(target):
            make = lambda layer: BcsrKernel(layer, tile)  # noqa: E731
            return 64, planes_fuzz.fuzz(rng, make, form(rng, ACTIVATIONS), 8, 8)

    return draw


def windows(target: llvm.Target) -> Draw:
    """Depthwise convolutions of any window."""

    def draw(rng: np.random.Generator) -> tuple[int, float]:
        kind = str(rng.choice(ACTIVATIONS)), bool(rng.integers(2))
        with host(target):
            return 48, depthwise_fuzz.fuzz(rng, *kind, 6, 8)

    return draw


def vectors(target: llvm.Target, kind: str) -> Draw:
    """Matrices times vectors, in one format."""

    def draw(rng: np.random.Generator) -> tuple[int, float]:
        with host(target):
            return 48, matvec_fuzz.fuzz(rng, kind, 48)

    return draw


def recurrent(target: llvm.Target, kind: str) -> Draw:
    """Whole sequences, several samples, both directions."""

    def draw(rng: np.random.Generator) -> tuple[int, float]:
        torch.manual_seed(int(rng.integers(2**31)))
        inputs, hidden, layers, batch = (int(n) for n in rng.integers(1, [20, 40, 3, 6]))
        density, both = float(rng.choice([0, 0.1, 0.4, 1])), bool(rng.integers(2))
        rnn = rnn_reference.network(
            kind, inputs, hidden, density, num_layers=layers, bidirectional=both
        )
        steps = int(rng.integers(1, 20))
        x = torch.from_numpy(guarded(steps * batch * inputs, at_end=bool(rng.integers(2))))
        x = x.view(steps, batch, inputs).normal_()
        with host(target):
            ours, right = rnn_reference.both(kind, rnn, x)
        rnn_reference.same(ours, right)
        return 1, float(max((a - b).abs().max() for a, b in zip(ours, right, strict=True)))

    return draw


def skipping(rng: np.random.Generator) -> tuple[int, float]:
    """Products that read live rows only."""
    k, n = (int(v) for v in rng.integers(1, 200, 2))
    at_end, worst = bool(rng.integers(2)), 0.0
    x, weight = (torch.from_numpy(guarded(s, at_end=at_end)).normal_() for s in (k, k * n))
    threshold = float(rng.choice([0, 0.5, 1, 9]))
    live = torch.where(x.abs() > threshold, x, torch.zeros(())).double()
    columns, rows = weight.view(k, n), torch.randperm(n)[: int(rng.integers(n + 1))]
    picked = weight.view(n, k)[rows].double()
    for found, matrix, vector in (
        (skip.skipping(x, columns, None, threshold), columns.t().double(), live),
        (skip.selected(x, weight.view(n, k), None, rows), picked, x.double()),
    ):
        size = matrix.abs() @ vector.abs() + 1e-30
        worst = max(
            worst, float(((found - matrix @ vector).abs() / size).max()) if len(found) else 0
        )
    assert worst <= planes_fuzz.TOLERANCE
    return 2, worst


def turned(rng: np.random.Generator) -> tuple[int, float]:
    """Transposed matrices, which are exact."""
    rows, columns = (int(n) for n in rng.integers(1, 70, 2))
    source, out = (guarded(rows * columns, at_end=bool(rng.integers(2))) for _ in range(2))
    source[:] = rng.standard_normal(len(source))
    given = torch.from_numpy(source).view(rows, columns)
    transpose(given, torch.from_numpy(out).view(columns, rows))
    np.testing.assert_array_equal(out.reshape(columns, rows), given.t())
    return 1, 0.0


def work(place: str, seed: int, cases: int, seconds: float) -> None:
    """One process: all families in turns, until there are enough cases or the time is over."""
    crash = Path(f"{place}.crash").open("w")  # noqa: SIM115  # open as long as the process is
    faulthandler.enable(crash)
    torch.set_num_threads(1)
    try:
        turns(place, seed, cases, seconds)
    finally:
        faulthandler.disable()
        crash.close()


def turns(place: str, seed: int, cases: int, seconds: float) -> None:
    """What a process does; writes counts, worst errors and what failed."""
    start, count, worst = time.monotonic(), Counter[str](), {}
    failed = ""
    every, turn = list(families().items()), 0
    every = every[seed * 7 % len(every) :] + every[: seed * 7 % len(every)]  # share what is made
    while count.total() < cases and time.monotonic() - start < seconds and not failed:
        for name, draw in every:
            Path(f"{place}.now").write_text(f"{name}, seed {seed}, turn {turn}")
            try:
                more, error = draw(np.random.default_rng([seed, turn]))
            except Exception:
                failed = f"{name}, seed {seed}, turn {turn}\n{traceback.format_exc()}"
                break
            count[name] += more
            worst[name] = max(worst.get(name, 0.0), error)
        turn += 1
    Path(f"{place}.json").write_text(json.dumps([count, worst, failed]))


def run(cases: int, processes: int, seconds: float, seed: int) -> dict[str, Any]:
    """All processes: counts and worst errors by kernel, failures and crashes."""
    start, context = time.monotonic(), multiprocessing.get_context("spawn")
    count, worst, failures = Counter[str](), dict[str, float](), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SECATEUR_CACHE"] = folder  # nobody's own
        places = [str(Path(folder) / f"worker{i}") for i in range(processes)]
        share = -(-cases // processes)
        children = [
            context.Process(target=work, args=(place, seed + i, share, seconds))
            for i, place in enumerate(places)
        ]
        for child in children:
            child.start()
        for child, place in zip(children, places, strict=True):
            child.join()
            path = Path(f"{place}.json")
            if not path.exists():
                last = Path(f"{place}.now")
                where = last.read_text() if last.exists() else "before the first case"
                trace = Path(f"{place}.crash").read_text() if last.exists() else ""
                failures.append(f"crash, exit code {child.exitcode}: {where}\n{trace}")
                continue
            found, errors, failed = json.loads(path.read_text())
            count.update(found)
            for name, error in errors.items():
                worst[name] = max(worst.get(name, 0.0), error)
            failures += [failed] if failed else []
    return {
        "cases": count.total(),
        "seconds": round(time.monotonic() - start, 1),
        "machine": platform.machine(),
        "features": sorted(features()),
        "failures": failures,
        "kernels": {name: {"cases": n, "worst": worst[name]} for name, n in sorted(count.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = run(given.cases, given.processes, given.seconds, given.seed)
    text = json.dumps(found, indent=1)
    sys.stdout.write(text)
    if given.out:
        given.out.write_text(text + "\n")
    raise SystemExit(bool(found["failures"]))


if __name__ == "__main__":
    main()
