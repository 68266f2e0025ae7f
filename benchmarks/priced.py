"""Where zeros go under a budget of time: by what kernels take, or by the weights alone.

`python benchmarks/runtime.py priced` prunes a trained ResNet-20 to shares of its time at batch 1
with three allocations, and measures what is left of its accuracy on images that nothing has seen.
Every network that counts was timed in turns with the original. A few minutes; needs SECATEUR_DATA.
"""

from __future__ import annotations

import time
from typing import Any

import torch

import secateur as sc

ALLOCATIONS = {"kernels": None, "lamp": "lamp", "erk": "erk"}
"""The first: by the kernels' times, and by what removing a layer's weights does to the outputs."""
SHARES = (30,)
BATCH, BATCHES = 32, 8  # of calibration


def measured() -> dict[str, Any]:
    """Every allocation at every share, in percent of the original's time."""
    from quality_cases import CASES

    case = CASES["resnet20"]()
    with torch.no_grad():
        dense = case.scores(case.build(), case.report)
    rows = []
    for share in SHARES:
        for name in ALLOCATIONS:
            rows.append(_row(case, share, name))
            print(rows[-1], flush=True)
    return {"allocations": rows, "dense": float(dense.mean())}


def _row(case: Any, share: float, name: str) -> dict[str, Any]:
    start = time.perf_counter()
    row: dict[str, Any] = {"share": share, "allocate": name}
    try:
        with torch.enable_grad():
            result = sc.prune(
                case.build(), case.example, data=case.data(BATCH)[:BATCHES], unit=sc.Weight(),
                allocate=ALLOCATIONS[name], budget=sc.Latency(f"{share}%"), become="packed",
            )  # fmt: skip
    except sc.SecateurError as error:
        return row | {"why": str(error), "seconds": time.perf_counter() - start}
    assert result.before.latency and result.after.latency
    row["seconds"] = time.perf_counter() - start
    scores = case.scores(result.model, case.report)
    return row | {
        "score": float(scores.mean()),
        "error": float(scores.std() / len(scores) ** 0.5),
        "params": result.after.params / result.before.params,
        "before_ms": result.before.latency.median_ms,
        "after_ms": result.after.latency.median_ms,
    }


def table(part: dict[str, Any]) -> list[str]:
    """Rows of Markdown."""
    lines = [
        f"ResNet-20 on CIFAR-10, dense {part['dense']:.1%}; 5,000 images that nothing has seen.",
        "",
        "| budget | allocation | weights left | measured | accuracy | took |",
        "|---|---|---|---|---|---|",
    ]
    for row in part["allocations"]:
        head = f"| {row['share']}% of the time | {row['allocate']} |"
        if "why" in row:
            lines.append(f"{head} | | {row['why'].splitlines()[0]} | {row['seconds']:.0f} s |")
            continue
        spent = row["after_ms"] / row["before_ms"]
        score = f"{row['score']:.1%} ± {row['error']:.1%}"
        lines.append(
            f"{head} {row['params']:.1%} | {spent:.0%} | {score} | {row['seconds']:.0f} s |"
        )
    return lines
