"""Accuracy at equal MACs without training, against Torch-Pruning and torch-kirigami.

    python benchmarks/quality.py peers --data ../shared/data     # once; hours on one core
    python benchmarks/quality.py ours --data ../shared/data
    python benchmarks/quality.py write                           # docs/quality.md

Every part keeps its rows in the JSON file, so that ours can run again without the peers. Names of
cases may follow the part. Peers go on where they were interrupted; with --again they start anew.
Many cores share the peers' work by `--budgets` and `--share 1/4` (every fourth setting), each with
a `--json` of its own; `merge --parts *.json` puts these into one.

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
from itertools import chain
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


def peer_rows(
    case: Case, old: list[Row], budgets: list[str] | None = None, share: tuple[int, int] = (1, 1)
) -> Iterator[list[Row]]:
    """Every peer's finalists at every budget that is not done yet, or why there are none."""
    found = settings(case)[share[0] - 1 :: share[1]]
    full = macs(case.build(), case)
    hopeless = {row["who"]: row for row in old if "failed" in row}
    for budget in (*BUDGETS, *([HALF] if case.halved else [])):
        if budgets and str(budget) not in budgets:
            continue
        for peer in dict.fromkeys(s.peer for s in found):
            done = [r for r in old if r["who"] == peer and r["budget"] == budget]
            if len(done) >= FINALISTS or any("failed" in r for r in done):
                continue
            tried = [s for s in found if s.peer == peer and (budget != HALF or s.halves)]
            if peer in hopeless and budget != HALF:  # it fails at the smaller budgets too
                yield [{**hopeless[peer], "budget": budget}]
                continue
            rows = list(_finalists(case, tried, budget, full))
            if "failed" in rows[0]:
                hopeless[peer] = rows[0]
            yield rows


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
        "An empty cell was not measured.",
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


def merge(path: Path, parts: list[Path]) -> None:
    """Put what several processes measured into one file: of each cell the best that were chosen."""
    results = json.loads(path.read_text())
    for name, case in results["cases"].items():
        found = [row for part in parts for row in _known(part, name) if row["who"] != "dense"]
        cells = {(row["who"], row["budget"]) for row in found}
        rows = [row for row in case["rows"] if (row["who"], row["budget"]) not in cells]
        for who, budget in sorted(cells, key=str):
            mine = [row for row in found if (row["who"], row["budget"]) == (who, budget)]
            done = [row for row in mine if "score" in row]
            sign = -1 if case["metric"] == "accuracy" else 1
            done.sort(key=lambda row: sign * row.get("selected", 0.0))
            rows += done if who == "secateur" else done[:FINALISTS] or mine[:1]
        case["rows"] = rows
    path.write_text(json.dumps(results, indent=1) + "\n")


def run(part: str, names: list[str], path: Path, again: bool, **only: Any) -> None:
    """Measure one part of some cases; rows are kept as soon as they are there."""
    for name in names or list(CASES):
        case = CASES[name]()
        old = [] if again else _known(path, name)
        if part == "ours":
            groups = ([row] for row in ours_rows(case))
        elif any(row["who"] == "dense" for row in old):
            groups = peer_rows(case, old, **only)
        else:
            groups = chain(map(_dense, [case]), peer_rows(case, old, **only))
        if part == "ours" or again:
            mine = part == "ours"
            _keep(path, name, case, [r for r in _known(path, name) if _ours(r) != mine])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for rows in _quiet(groups):
                for row in rows:
                    print(name, json.dumps(row), flush=True)
                same = {(row["who"], row["budget"]) for row in rows}
                kept = [r for r in _known(path, name) if (r["who"], r["budget"]) not in same]
                _keep(path, name, case, kept + rows)


def _dense(case: Case) -> list[Row]:
    return [dense(case)]


def _ours(row: Row) -> bool:
    return row["who"] == "secateur"


def _known(path: Path, name: str) -> list[Row]:
    """The rows of a case in the file, read anew: the other part may have written in between."""
    results = json.loads(path.read_text()) if path.is_file() else {"cases": {}}
    return results["cases"].get(name, {"rows": []})["rows"]


def _keep(path: Path, name: str, case: Case, rows: list[Row]) -> None:
    results = json.loads(path.read_text()) if path.is_file() else {"cases": {}}
    results["machine"] = machine()
    about = {"name": case.name, "metric": case.metric, "halved": case.halved}
    results["cases"][name] = {**about, "rows": rows}
    results["cases"] = {key: results["cases"][key] for key in CASES if key in results["cases"]}
    path.write_text(json.dumps(results, indent=1) + "\n")


def _quiet(groups: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """Without what the peers print while they work."""
    while True:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            rows = next(groups, None)
        if rows is None:
            return
        yield rows


def main() -> None:
    """Run a part, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("peers", "ours", "merge", "write"))
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--again", action="store_true", help="Measure again what is known.")
    parser.add_argument("--data", type=Path, default=quality_cases.DATA)
    parser.add_argument("--budgets", nargs="*", help="Peers: only these; all if not given.")
    parser.add_argument("--share", default="1/1", help="Peers: which part of the settings.")
    parser.add_argument("--parts", type=Path, nargs="*", default=[], help="Files to merge.")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/quality.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/quality.md"))
    options = parser.parse_args()
    quality_cases.DATA = options.data
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if options.part == "merge":
        merge(options.json, options.parts)
    elif options.part != "write":
        nth, of = map(int, options.share.split("/"))
        only = {"budgets": options.budgets, "share": (nth, of)}
        run(options.part, options.cases, options.json, options.again, **only)
    write(options.out, json.loads(options.json.read_text()))


if __name__ == "__main__":
    main()
