"""Networks that adapt while they run: what is kept, what is gained, and what is promised.

    python benchmarks/adaptive.py dial gates activations exits controller
    python benchmarks/adaptive.py deadline gates-time activations-time exits-time load
    python benchmarks/adaptive.py write --out docs/adaptive.md

The parts of the second line measure time: run them on a quiet machine. Each part takes minutes and
stores its figures in a JSON file, from which `write` makes the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adaptive_inputs as inputs
import adaptive_times as times
import quality_cases
import torch
from adaptive_page import page
from pages import put
from quality_cases import CASES, Case, macs

Row = dict[str, Any]
LEVELS = (1.0, 0.75, 0.5, 0.25)
DIAL_CASES = ("resnet20", "fsdd_lstm", "char_gpt")


def dial(name: str) -> Row:
    """Levels of a dial beside networks that were pruned by themselves, on unseen data."""
    import secateur as sc

    case = CASES[name]()
    whole = macs(case.build(), case)
    made = sc.dial(case.build(), case.example, data=case.data(), levels=LEVELS)
    rows = []
    for level in LEVELS:
        mine = _score(case, made.export(level)), macs(made.export(level), case) / whole
        row = {"level": level, "score": mine[0], "macs": mine[1]}
        if level < 1:
            budget = sc.MACs(f"{100 * level:g}%")
            alone = sc.prune(
                case.build(), case.example, data=case.data(), budget=budget, latency=False
            ).model
            row |= {"alone": _score(case, alone), "alone_macs": macs(alone, case) / whole}
        rows.append(row)
        print(name, row, flush=True)
    bits = {f"{level.share:g}": level.bits for level in made.stored}
    return {
        "case": case.name, "metric": case.metric, "rows": rows, "memory": made.memory.times,
        "bits": bits,
    }  # fmt: skip


def _score(case: Case, model: Any) -> float:
    return case.scores(model, case.report).mean().item()


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "dial": lambda options: {name: dial(name) for name in options.cases or DIAL_CASES},
    "gates": lambda options: inputs.gates(),
    "activations": lambda options: {
        n: inputs.activations(n) for n in options.cases or inputs.LAZY_CASES
    },
    "exits": lambda options: {
        n: inputs.exits(n, options.jobs) for n in options.cases or inputs.EXIT_CASES
    },
    "controller": lambda options: inputs.controller(),
    "deadline": lambda options: times.deadline(),
    "gates-time": lambda options: times.gates(),
    "activations-time": lambda options: times.activations(),
    "exits-time": lambda options: times.exits(options.cases or list(times.GUARANTEES)),
    "load": lambda options: times.load(),
}


def main() -> None:
    """Run what is named, and write what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "write"])
    parser.add_argument("--cases", nargs="*", choices=list(CASES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of the part exits")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/adaptive.json"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.data is not None:
        quality_cases.DATA = options.data
    torch.set_num_threads(options.threads)
    for part in [part for part in options.parts if part != "write"]:
        row = PARTS[part](options)
        found = json.loads(options.json.read_text()) if options.json.exists() else {}
        before = found.get(part, {})
        found[part] = {**before, **row}
        found["threads"] = options.threads
        options.json.write_text(json.dumps(found, indent=1) + "\n")
        print(part, json.dumps(row), flush=True)
    if options.out is not None:
        found = json.loads(options.json.read_text())
        put(options.out, "Networks that adapt", page(found))


if __name__ == "__main__":
    main()
