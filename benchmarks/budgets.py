"""Budgets in the user's own units, kept or not; and the time and memory of a large repair.

    python benchmarks/budgets.py drop latency large --data ../shared/data --out docs/budgets.md

drop: the smallest network within one point (0.05 nats for text), no training, on seven models;
what the search selects on and what is reported here are different samples. latency: 60 % of the
milliseconds at batch 1, ten runs each on a CNN, an LSTM and a Transformer, timed anew afterwards,
in turns with the original. large: half of the MACs of a ResNet-50, repaired on 256 images at
224 x 224 (random weights and images: this measures time and memory, not quality).

Names of cases may follow, as `--cases resnet20 fsdd_lstm`. `write --also a.json b.json` makes the
page of several files, from several machines.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import quality_cases
import torch
from pages import put
from quality_cases import CASES, Case, macs
from speed import Peak, processor

Row = dict[str, Any]
LATENCY_CASES = ("resnet20", "fsdd_lstm", "char_gpt")


def drop(name: str, case: Case) -> Row:
    """The smallest network within a point, or within 0.05 nats."""
    import secateur as sc

    text = case.metric == "nats"
    budget = sc.Drop(nats=0.05) if text else sc.Drop(points=1)
    start = time.perf_counter()
    result = sc.prune(
        case.build(),
        case.example,
        data=case.data(),
        evaluate=metric(case),
        budget=budget,
    )
    seconds = time.perf_counter() - start
    before, after = (case.scores(model, case.report) for model in (case.build(), result.model))
    lost = (after - before) if text else (before - after)
    error = lost.std().item() / len(lost) ** 0.5
    return {
        "case": case.name,
        "macs": macs(result.model, case) / macs(case.build(), case),
        "latency": _ratio(result),
        "before": before.mean().item(),
        "after": after.mean().item(),
        "lost": lost.mean().item(),
        "error": error,
        "kept": lost.mean().item() <= (0.05 if text else 0.01) + error,
        "seconds": seconds,
        "trials": len(result.attempts),
        "machine": machine(),
    }


def machine() -> str:
    """What a row was measured on, and how."""
    threads = torch.get_num_threads()
    said = f"{threads} thread{'s' if threads > 1 else ''}"
    return f"{processor()}, {said}, torch {torch.__version__.partition('+')[0]}"


def metric(case: Case) -> Any:
    """The product's own metric, which stops where the outcome is clear."""
    import secateur as sc

    kind = sc.Loss if case.metric == "nats" else sc.Accuracy
    return kind([(*part.inputs, part.targets) for part in case.selection.batches(50)])


def latency(name: str, case: Case, runs: int) -> Iterator[Row]:
    """60 % of the milliseconds, ten times; what there is after every run.

    A run that finds nothing counts as one that does not meet the budget.
    """
    import secateur as sc
    from secateur.core.errors import InfeasibleBudget
    from secateur.measure.clock import compare

    ratios, seconds = [], []
    for seed in range(runs):
        model = case.build()
        start = time.perf_counter()
        try:
            result = sc.prune(
                model, case.example, data=case.data(), budget=sc.Latency("60%", batch=1),
                seed=seed, latency=False,
            )  # fmt: skip
        except InfeasibleBudget as error:
            print(error, flush=True)
            result = None
        seconds.append(time.perf_counter() - start)
        if result is None:
            ratios.append(None)
            continue
        with torch.no_grad():
            times = compare(
                {
                    "before": lambda m=model: m(*case.example),
                    "after": lambda m=result.model: m(*case.example),
                }
            )
        ratios.append(times["after"].median_ms / times["before"].median_ms)
        yield {
            "case": case.name,
            "ratios": ratios,
            "met": sum(ratio is not None and ratio <= 0.6 for ratio in ratios),
            "seconds": sorted(seconds)[len(seconds) // 2],
            "machine": machine(),
        }


def large() -> Row:
    """A ResNet-50, pruned and repaired on 256 images."""
    import torchvision

    import secateur as sc

    model = torchvision.models.resnet50().eval()
    images = torch.randn(256, 3, 224, 224)
    prune = sc.prune
    with Peak() as peak:
        start = time.perf_counter()
        result = prune(model, data=[images], budget=sc.MACs("50%"), samples=256, latency=False)
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_gib": peak.value / 2**30,
        "start_gib": peak.start / 2**30,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "repairs": list(result.repairs),
    }


def _ratio(result: Any) -> float | None:
    times = result.before.latency, result.after.latency
    return None if None in times else times[1].median_ms / times[0].median_ms


def rows_of(found: Sequence[dict[str, Any]], part: str) -> list[Row]:
    """The rows of a table in all files, those of a model together."""
    rows = [row for one in found for row in one.get(part, {}).values()]
    order = list(dict.fromkeys(row["case"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["case"]))


def page(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The tables, of the rows in all files."""
    yield "Written by `python benchmarks/budgets.py`. Seconds are upper bounds: other work may "
    yield "have run beside.\n"
    if rows := rows_of(found, "drop"):
        yield "\n**The smallest network within one point (0.05 nats for text), no training**\n\n"
        yield "| model | MACs left | latency left | before | after | lost | within budget + s.e. "
        yield "| search | machine |\n|---|---|---|---|---|---|---|---|---|"
        for r in rows:
            left = "" if r["latency"] is None else f"{r['latency']:.0%}"
            yield (
                f"\n| {r['case']} | {r['macs']:.1%} | {left} | {r['before']:.4f} "
                f"| {r['after']:.4f} | {r['lost']:+.4f} ± {r['error']:.4f} "
                f"| {'yes' if r['kept'] else 'NO'} "
                f"| {r['seconds']:.0f} s, {r['trials']} trials | {r.get('machine', '')} |"
            )
        yield "\n"
    if rows := rows_of(found, "latency"):
        yield "\n**60 % of the milliseconds at batch 1, timed anew**\n\n"
        yield "| model | met | ratios | one run | machine |\n|---|---|---|---|---|"
        for r in rows:
            ratios = " ".join("none" if q is None else f"{q:.2f}" for q in r["ratios"])
            yield f"\n| {r['case']} | {r['met']} of {len(r['ratios'])} | {ratios} "
            yield f"| {r['seconds']:.0f} s | {r.get('machine', '')} |"
        yield "\n"
    if larges := [one["large"] for one in found if "large" in one]:
        yield "\n**ResNet-50, half of the MACs, repaired on 256 images at 224 x 224**\n"
    for r in larges:
        yield "\n"
        yield f"{r['seconds']:.0f} s on {r['threads']} threads; peak memory of the process "
        yield f"{r['peak_gib']:.1f} GiB, of which {r['start_gib']:.1f} GiB before the start"
        yield f" ({r.get('machine', '')}).\n"


def main() -> None:
    """Run what is named, and write what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=["drop", "latency", "large", "write"])
    parser.add_argument("--cases", nargs="*", choices=list(CASES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("budgets.json"))
    parser.add_argument("--also", nargs="*", type=Path, default=[], help="more files for the page")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.data is not None:
        quality_cases.DATA = options.data
    torch.set_num_threads(options.threads)
    found = json.loads(options.json.read_text()) if options.json.exists() else {}

    def keep() -> None:
        options.json.write_text(json.dumps(found, indent=1))

    if "drop" in options.parts:
        for name in options.cases or CASES:
            found.setdefault("drop", {})[name] = row = drop(name, CASES[name]())
            print(row, flush=True)
            keep()
    if "latency" in options.parts:
        for name in options.cases or LATENCY_CASES:
            for row in latency(name, CASES[name](), options.runs):
                found.setdefault("latency", {})[name] = row
                print(row, flush=True)
                keep()
    if "large" in options.parts:
        torch.set_num_threads(max(options.threads, os.cpu_count() or 1))
        found["large"] = large()
        print(found["large"], flush=True)
        keep()
    if options.out is not None:
        others = [json.loads(path.read_text()) for path in options.also]
        put(options.out, "Budgets", "".join(page([found, *others])))


if __name__ == "__main__":
    main()
