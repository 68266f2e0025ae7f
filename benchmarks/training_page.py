"""docs/training.md from the rows of the training benchmark."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776}
"""Quantiles of Student's t for two-sided intervals of 95 %, by degrees of freedom."""

HEAD = """# Pruning in training

Written by `python benchmarks/training.py`; {machine}.

All rows of a table have the same number of steps, batches and learning rates, and are measured
once, after the last step, on data that nothing was trained or chosen on: of MNIST the 3,000 test
images and 10,000 training images that were held out; of the text its last tenth. ± is the standard
deviation over seeds. Learning rates are usual ones of dense networks, not tuned for pruned ones.

What was tried before and is not in the tables, one seed each, on the data reported on: gmp with
fewer steps and a later end of the schedule lost 0.65 points on LeNet-300-100 (3,000 steps) and 0.44
on LeNet-5 (1,500 steps); then steps, batch (64) and the end (half of the steps) were changed. DPF
lost 0.66 points in 8,000 steps. Of the other parts only the number of steps was cut, before any
row was run at the longer lengths.
"""

INTRO = {
    "gradual": "## 98 % of the weights gone\n\n"
    "`sc.presets.gmp`: global magnitude, a cubic schedule over the first half of the steps. The "
    "difference is in points of accuracy to the dense network of the same seed.",
    "topologies": "## Topologies that adapt\n\n"
    "Sparse from the first step on, densities by ERK. *static* keeps the masks that were drawn, "
    "SET grows at random, RigL by gradient; both change 30 % of the weights at first, for three "
    "quarters of the steps.",
    "regularisation": "## Does pruning regularise?\n\n"
    "LeNet-300-100 on 5,000 images of MNIST: with 40 % of the labels replaced by wrong ones, and "
    "with the right ones. The difference is to the dense network of the same seed, with its 95 % "
    "confidence interval. Controls: masks drawn at random before training, and more weight decay. "
    "Where random masks are as good, it is fewer weights that help, not which ones. Early stopping "
    "was not tried.",
}


def page(rows: dict[str, Row], parts: dict[str, Any], machine: str) -> str:
    """The whole page; cells of runs that are missing are left out."""
    text = [HEAD.format(machine=machine)]
    for part, keys in parts.items():
        text.append(INTRO[part] + "\n")
        for name in dict.fromkeys(name for name, _ in keys):
            found = {
                method: seeds_of(rows, part, name, method) for task, method in keys if task == name
            }
            text += table(part, name, {method: runs for method, runs in found.items() if runs})
    return "\n".join(text)


def seeds_of(rows: dict[str, Row], part: str, name: str, method: str) -> dict[int, Row]:
    start = f"{part} | {name} | {method} | "
    return {int(key[len(start) :]): row for key, row in rows.items() if key.startswith(start)}


def table(part: str, name: str, found: dict[str, dict[int, Row]]) -> list[str]:
    if not found:
        return []
    first = next(iter(next(iter(found.values())).values()))
    shown = [key for key in ("accuracy", "nats") if key in first]
    compared = part != "topologies"
    heads = ["zero", *(f"{key}, %" if key == "accuracy" else key for key in shown)]
    heads += ["difference to dense"] if compared else []
    lines = [f"### {name}, {first['steps']:,} steps\n", "| | seeds | " + " | ".join(heads) + " |"]
    lines.append("|---|---|" + "---|" * len(heads))
    dense = found.get("dense", {})
    for method, runs in found.items():
        cells = [f"{statistics.mean(row['sparsity'] for row in runs.values()):.1%}"]
        for key in shown:
            cells.append(spread([row[key] for row in runs.values()], 2 if key == "accuracy" else 3))
        if compared:
            pairs = [runs[k][shown[0]] - dense[k][shown[0]] for k in runs if k in dense]
            cells.append("" if method == "dense" else interval(pairs))
        lines.append(f"| {method} | {len(runs)} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def spread(values: list[float], digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def interval(values: list[float]) -> str:
    """The mean of paired differences, and where it lies with 95 % confidence."""
    if len(values) - 1 not in STUDENT:
        return " ".join(f"{value:+.2f}" for value in values)
    middle = statistics.mean(values)
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return f"{middle:+.2f} ({middle - half:+.2f} to {middle + half:+.2f})"
