"""docs/training.md from the rows of the training benchmark."""

from __future__ import annotations

import statistics
from typing import Any

from training_choice import CHOSEN, WAYS, final

Row = dict[str, Any]
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776}
"""Quantiles of Student's t for two-sided intervals of 95 %, by degrees of freedom."""

HEAD = """# Pruning in training

Written by `python benchmarks/training.py`; where a table says nothing else: {machine}.

All rows of a table have the same number of steps and batches, and are measured once, after the last
step, on data that nothing was trained or chosen on: of MNIST the 3,000 test images and 10,000
training images that were held out; of the text its last tenth. ± is the standard deviation over
seeds. But for the first part, learning rates are usual ones of dense networks, not tuned.
"""

INTRO = {
    "choice": "## 98 % of the weights gone\n\n"
    "Ways were compared on 10,000 training images, and trained on 40,000 others: *validation*. "
    "The best sparse way of each network, the dense one with the same optimizer, rate, weight "
    "decay and labels, the best dense one and the plain one were then trained on all 50,000. "
    "Differences are in points of accuracy to the first of these dense networks with the same "
    "seed, with the 95 % confidence interval. `gmp` has a cubic schedule over half of the steps, "
    "unless it says how far; *5 cycles* are five cuts, with a learning rate that starts anew "
    "after each. Tried on validation images too, and not in the tables: distillation from the "
    "dense network of the first 40 % of the steps, at temperatures 2 and 4, with gmp, LAMP, "
    "GraNet, AdamW and three weight decays, which lost up to 0.4 points more than `gmp` alone. On "
    "LeNet-300-100, by a program that trains many networks at once: `gmp` and GraNet with four "
    "smoothings of labels, three rates, two ends of the rise, L1, dropped pixels (28,980 steps), "
    "twice as many steps, and variational dropout (Molchanov et al. 2017; 31,680 steps). No "
    "sparse network of these had more than 97.7, dense ones had 97.6 to 98.2. Before ways were "
    "compared like this, on the data reported on, one seed each: `gmp` lost 0.5 points on "
    "LeNet-300-100 in 8,000 and in 16,000 steps, DPF 0.7 in 8,000, and `gmp` 0.4 on LeNet-5 in "
    "1,500. Then, by another such program and two seeds each: 118 ways in 31,680 steps (GraNet, "
    "gmp and global sparse momentum, Ding et al. 2019, with averages of weights, smoothed labels, "
    "noise, images moved by half a pixel, mixup, sharpness-aware steps, distillation from ten "
    "networks, rates, weight decays and rises), and the best of them in 95,040, where more weight "
    "decay is what helps sparse networks: the last table. Moved images, not in the tables, helped "
    "most (98.2 of 100 on validation), but dense networks more (98.9).",
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
    lenets = list(dict.fromkeys(key.split(" | ")[1] for key in rows if key.startswith("choice |")))
    for name in [*lenets, *CHOSEN]:
        text.append(INTRO["choice"] + "\n" if name == lenets[0] else "")
        for part, title in (("choice", f"{name}, validation"), ("gradual", name)):
            ways = WAYS if part == "choice" else final(rows, name)
            found = {way: seeds_of(rows, part, name, way) for way in ways}
            text += table(part, title, {way: runs for way, runs in found.items() if runs})
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
    compared = part not in ("topologies", "choice")
    heads = ["zero", *(f"{key}, %" if key == "accuracy" else key for key in shown)]
    heads += ["difference to dense"] if compared else []
    lines = [f"### {name}, {first['steps']:,} steps\n", "| | seeds | " + " | ".join(heads) + " |"]
    lines.append("|---|---|" + "---|" * len(heads))
    dense = next((runs for method, runs in found.items() if method.startswith("dense")), {})
    best = lambda item: -statistics.mean(row[shown[0]] for row in item[1].values())  # noqa: E731
    if part == "choice":
        found = dict(sorted(found.items(), key=best))
    for method, runs in found.items():
        cells = [f"{statistics.mean(row['sparsity'] for row in runs.values()):.1%}"]
        for key in shown:
            cells.append(spread([row[key] for row in runs.values()], 2 if key == "accuracy" else 3))
        if compared:
            pairs = [runs[k][shown[0]] - dense[k][shown[0]] for k in runs if k in dense]
            cells.append("" if runs is dense else interval(pairs))
        lines.append(f"| {method} | {len(runs)} | " + " | ".join(cells) + " |")
    places = {
        row["machine"] for runs in found.values() for row in runs.values() if "machine" in row
    }
    lines += ["", f"Measured on {'; '.join(sorted(places))}."] if places else []
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
