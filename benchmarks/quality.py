"""Accuracy at equal MACs without training, against Torch-Pruning and torch-kirigami.

    python benchmarks/quality.py peers --data ../shared/data     # once; an hour on one core
    python benchmarks/quality.py ours --data ../shared/data
    python benchmarks/quality.py write                           # docs/quality.md

Every part keeps its rows in the JSON file, so that ours can run again without the peers. The rows
of a case are replaced when it runs again. Names of cases may follow the part.

All results are counted the same way: MACs by torch.utils.flop_counter, quality on the report set. A
peer is tried in all its settings, with and without re-estimated batch norms; the settings that do
best on 500 samples of the selection set are then measured on the report set, and the best of these
is the peer's result. So the choice among the last few is made in hindsight, in the peer's favour.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import quality_cases
import torch
from quality_cases import CASES, Case, macs
from quality_peers import Setting, has_batch_norm, reestimated, settings, to_budget
from torch import nn

BUDGETS = (0.75, 0.50, 0.35, 0.25)
HALF = "half"
RANKED, FINALISTS = 250, 4
Row = dict[str, Any]


def ours(case: Case, budget: float) -> nn.Module:
    """Secateur's network of at most a share of the MACs, with the defaults for data."""
    import secateur as sc

    result = sc.prune(
        case.build(),
        case.example,
        data=case.data(),
        budget=sc.MACs(f"{budget:.0%}"),
        latency=False,
    )
    return result.model


def ours_half(case: Case) -> nn.Module:
    """Half of every block's inner channels removed, and nothing else."""
    import secateur as sc

    result = sc.prune(
        case.build(),
        case.example,
        data=case.data(),
        scope=["layer*.conv1", "layer*.bn1"],
        allocate="uniform",
        budget=sc.Sparsity(0.5),
        latency=False,
    )
    return result.model


def measured(case: Case, model: nn.Module) -> Row:
    """MACs, the mean score on the report set, and its standard error."""
    scores = case.scores(model, case.report)
    error = scores.std() / len(scores) ** 0.5
    return {"macs": macs(model, case), "score": scores.mean().item(), "error": error.item()}


def dense(case: Case) -> Row:
    """The unpruned network; its published quality must be what is measured here."""
    model = case.build()
    found = case.check()
    if abs(found - case.published) > 0.01:
        raise SystemExit(f"{case.name}: {found} is not the published {case.published}")
    return {"who": "dense", "budget": 1.0, **measured(case, model)}


def ours_rows(case: Case) -> Iterator[Row]:
    """All budgets that the case has."""
    jobs: list[tuple[Any, Callable[[], nn.Module]]] = [
        (budget, lambda b=budget: ours(case, b)) for budget in BUDGETS
    ]
    if case.halved:
        jobs.append((HALF, lambda: ours_half(case)))
    for budget, job in jobs:
        start = time.perf_counter()
        row: Row = {"who": "secateur", "budget": budget, "setting": "default"}
        try:
            model = job()
            seconds = time.perf_counter() - start
            yield {**row, **measured(case, model), "seconds": seconds}
        except Exception as raised:
            yield {**row, "failed": _line(raised)}


def peer_rows(case: Case) -> Iterator[Row]:
    """Every peer's finalists at every budget, or why there are none."""
    found = settings(case)
    full = macs(case.build(), case)
    hopeless: dict[str, Row] = {}
    for budget in (*BUDGETS, *([HALF] if case.halved else [])):
        for peer in dict.fromkeys(s.peer for s in found):
            tried = [s for s in found if s.peer == peer and (budget != HALF or s.halves)]
            if peer in hopeless:  # what fails at a budget fails at the smaller ones
                yield {**hopeless[peer], "budget": budget}
                continue
            for row in _finalists(case, tried, budget, full):
                if "failed" in row:
                    hopeless[peer] = row
                yield row


def _finalists(case: Case, tried: list[Setting], budget: Any, full: int) -> Iterator[Row]:
    ranked: dict[tuple[float, int], tuple[str, nn.Module]] = {}
    failed: dict[str, str] = {}
    seen: set[tuple[float, ...]] = set()
    for setting in tried:
        try:
            model = (
                setting.prune(case, 0.5)
                if budget == HALF
                else to_budget(setting, case, budget * full)
            )
            if macs(model, case) == full:
                raise RuntimeError("nothing was removed")
        except Exception as raised:
            failed[setting.name] = _line(raised)
            continue
        same = tuple(p.double().sum().item() for p in model.parameters())
        if same in seen:
            continue
        seen.add(same)
        for name, form in _forms(setting.name, model, case):
            score = case.scores(form, case.selection[:RANKED]).mean().item()
            ranked.setdefault((score, macs(form, case)), (name, form))
    row: Row = {"who": tried[0].peer, "budget": budget}
    order = sorted(ranked, reverse=case.metric == "accuracy")
    for score, count in order[:FINALISTS]:
        name, model = ranked[score, count]
        yield {**row, "setting": name, "selected": score, **measured(case, model)}
    if not ranked:
        reasons = list(failed.values())
        yield {**row, "failed": max(set(reasons), key=reasons.count), "settings": len(tried)}


def _forms(name: str, model: nn.Module, case: Case) -> Iterator[tuple[str, nn.Module]]:
    yield name, model
    if has_batch_norm(model):
        yield f"{name}, BN re-estimated", reestimated(model, case)


def _line(error: Exception) -> str:
    first = (str(error).splitlines() or ["raised without a message"])[0]
    return f"{type(error).__name__}: {first}"[:160]


def best(case: Row, who: str, budget: Any) -> Row | None:
    """The best row of one contender at one budget, or one that says why there is none."""
    rows = [r for r in case["rows"] if r["who"] == who and r["budget"] == budget]
    done = [r for r in rows if "score" in r]
    pick = max if case["metric"] == "accuracy" else min
    return pick(done, key=lambda r: r["score"]) if done else next(iter(rows), None)


def write(path: Path, results: dict[str, Any]) -> None:
    """The tables as markdown."""
    whos = ("secateur", "Torch-Pruning", "torch-kirigami")
    lines = [
        "# Quality without training",
        "",
        f"Written by `python benchmarks/quality.py`; {results['machine']}.",
        "",
        "Accuracy in per cent, or nats for a character, on data that nothing has seen before, ±",
        "one standard error; in brackets the share of the dense network's MACs that is left.",
        "Calibration data: at most 512 training samples. Peers: the best of all their settings",
        "without training, batch norms re-estimated where that helps; their gradient criteria get",
        "labels. OSSCAR is not in torch-kirigami's package, but among its source's examples.",
    ]
    for case in results["cases"].values():
        whole = best(case, "dense", 1.0)
        lines += ["", f"## {case['name']}", ""]
        if whole is not None:
            lines += [f"Dense: {_value(case, whole)}, {whole['macs']:,} MACs.", ""]
        lines += [f"| MACs | {' | '.join(whos)} |", "|---|---|---|---|"]
        for budget in (*BUDGETS, *([HALF] if case["halved"] else [])):
            cells = [_cell(case, best(case, who, budget), whole) for who in whos]
            name = "half of the inner channels" if budget == HALF else f"{budget:.0%}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
        failed = {(r["who"], r["failed"]) for r in case["rows"] if "failed" in r}
        lines += [""] * bool(failed) + [f"- {who}: `{why}`" for who, why in sorted(failed)]
    path.write_text("\n".join(lines) + "\n")


def _cell(case: Row, row: Row | None, whole: Row | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "none (see below)"
    share = f" ({row['macs'] / whole['macs']:.1%})" if whole else ""
    setting = "" if row["who"] == "secateur" else f"<br>{row['setting']}"
    return f"{_value(case, row)}{share}{setting}"


def _value(case: Row, row: Row) -> str:
    if case["metric"] == "accuracy":
        return f"{100 * row['score']:.2f} ± {100 * row['error']:.2f}"
    return f"{row['score']:.3f} ± {row['error']:.3f}"


def machine() -> str:
    """What the figures were measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"


def run(part: str, names: list[str], path: Path) -> None:
    """Measure one part of some cases and keep the rows."""
    rows_of = {"peers": peer_rows, "ours": ours_rows}[part]
    for name in names or list(CASES):
        case = CASES[name]()
        kept = {"name": case.name, "metric": case.metric, "halved": case.halved}
        new = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if part == "peers":
                new.append(dense(case))
            for row in _quiet(rows_of(case)):
                print(name, json.dumps(row), flush=True)
                new.append(row)
        # Read again: the other part may have written in between.
        results = json.loads(path.read_text()) if path.is_file() else {"cases": {}}
        old = results["cases"].get(name, {"rows": []})["rows"]
        mine = {"secateur"} if part == "ours" else {row["who"] for row in old} - {"secateur"}
        rows = [row for row in old if row["who"] not in mine] + new
        results["machine"] = machine()
        results["cases"][name] = {**kept, "rows": rows}
        path.write_text(json.dumps(results, indent=1) + "\n")


def _quiet(rows: Iterator[Row]) -> Iterator[Row]:
    """Without what the peers print while they work."""
    while True:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            row = next(rows, None)
        if row is None:
            return
        yield row


def main() -> None:
    """Run a part, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("peers", "ours", "write"))
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--data", type=Path, default=quality_cases.DATA)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/quality.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/quality.md"))
    options = parser.parse_args()
    quality_cases.DATA = options.data
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if options.part != "write":
        run(options.part, options.cases, options.json)
    write(options.out, json.loads(options.json.read_text()))


if __name__ == "__main__":
    main()
