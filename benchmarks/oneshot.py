"""One-shot pruning of single weights, without training and without labels.

    python benchmarks/oneshot.py run --data ../shared/data     # an hour or two on one core
    python benchmarks/oneshot.py write                         # docs/oneshot.md

Calibration data is training data without labels, 512 samples. Each setting is measured on the
report half of the test data, which nothing has seen. "best" rows are the best on the selection
half. Rows that are there already are not made again. Names of cases may follow `run`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quality_cases
import torch
from quality_cases import CASES, Case
from torch import nn

import secateur as sc

Row = dict[str, Any]
REPAIRS: dict[str, list[Any]] = {
    "none": [],  # as solved or masked
    "norms": [sc.Recalibrate()],
    "least squares": [sc.Reconstruct()],
    "least squares, norms": [sc.Reconstruct(), sc.Recalibrate()],
}


@dataclass(frozen=True)
class Setting:
    """How a network is pruned, in words that `sc.prune` takes."""

    unit: str
    sparsity: float
    criterion: str
    allocate: str
    repair: str

    @property
    def arguments(self) -> dict[str, Any]:
        units = {"weight": sc.Weight(), "row": sc.Weight(per="row"), "2:4": sc.NM(2, 4)}
        budget = {} if self.unit == "2:4" else {"budget": sc.Sparsity(self.sparsity)}
        return {
            "unit": units[self.unit], "criterion": self.criterion, "allocate": self.allocate,
            "recover": REPAIRS[self.repair], **budget,
        }  # fmt: skip


def settings(name: str) -> Iterator[Setting]:
    """What is tried on a case."""
    if name == "resnet20":
        for sparsity in (0.9, 0.8):
            for criterion, allocate, repair in (
                ("magnitude", "uniform", "norms"), ("magnitude", "global", "norms"),
                ("magnitude", "erk", "norms"), ("magnitude", "lamp", "norms"),
                ("magnitude", "lamp", "none"), ("magnitude", "lamp", "least squares, norms"),
                ("magnitude", "global", "least squares, norms"), ("wanda", "lamp", "norms"),
                ("sparsegpt", "lamp", "norms"), ("alps", "lamp", "norms"),
                ("alps", "erk", "norms"),
            ):  # fmt: skip
                yield Setting("weight", sparsity, criterion, allocate, repair)
        return
    for unit in ("row", "2:4"):
        for criterion in ("magnitude", "wanda", "sparsegpt", "alps"):
            yield Setting(unit, 0.5, criterion, "uniform", "none")
        yield Setting(unit, 0.5, "magnitude", "uniform", "least squares")


def pruned(case: Case, setting: Setting) -> tuple[nn.Module, Row]:
    """The sparse network, and what is known of how it was made."""
    start = time.perf_counter()
    scope = sc.skip(case.output) if case.metric == "nats" else None
    result = sc.prune(
        case.build(), case.example, data=case.data(), latency=False, scope=scope,
        **setting.arguments,
    )  # fmt: skip
    masks = result.masks.values()
    kept = sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
    row = {"density": kept, "seconds": time.perf_counter() - start, "repairs": result.repairs}
    return result.model, row


def scored(case: Case, model: nn.Module) -> Row:
    """Means of the metric on both halves, and the standard error on the report half."""
    report, selection = case.scores(model, case.report), case.scores(model, case.selection[:1500])
    error = float(report.std() / len(report) ** 0.5)
    return {"score": float(report.mean()), "error": error, "selection": float(selection.mean())}


def run(names: list[str], path: Path) -> None:
    """Measure all settings of some cases that are not in the file yet."""
    torch.set_num_threads(1)
    page = json.loads(path.read_text()) if path.exists() else {"rows": []}
    page["machine"] = {"cpu": platform.machine(), "torch": torch.__version__, "threads": 1}
    for name in names:
        case = CASES[name]()
        todo: list[Setting | None] = [None, *settings(name)]
        for setting in todo:
            key = {"case": name, **({} if setting is None else vars(setting))}
            if any(all(row.get(k) == v for k, v in key.items()) and len(key) == row["key"]
                   for row in page["rows"]):  # fmt: skip
                continue
            model, made = (case.build(), {}) if setting is None else pruned(case, setting)
            row = {**key, "key": len(key), **made, **scored(case, model)}
            page["rows"].append(row)
            path.write_text(json.dumps(page, indent=1))
            shown = "dense" if setting is None else " ".join(map(str, vars(setting).values()))
            print(
                f"{name:10} {shown:55} {row['score']:.4f} {row.get('seconds', 0):.1f} s", flush=True
            )


def main() -> None:
    """Run, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "write"])
    parser.add_argument("cases", nargs="*", default=["resnet20", "char_gpt", "char_lstm"])
    parser.add_argument("--data", type=Path, default=quality_cases.DATA)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/oneshot.json"))
    given = parser.parse_args()
    quality_cases.DATA = given.data
    os.environ["SECATEUR_DATA"] = str(given.data)
    if given.what == "run":
        run(given.cases, given.json)
    else:
        import oneshot_page

        Path("docs/oneshot.md").write_text(oneshot_page.page(json.loads(given.json.read_text())))


if __name__ == "__main__":
    main()
