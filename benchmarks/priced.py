"""Where zeros go under a budget of time: by what kernels take, or by the weights alone.

`python benchmarks/priced.py --share 50 --json priced.json` prunes a trained network to a share of
its time at batch 1 with three allocations, and measures what is left of its accuracy on images that
nothing has seen. One thread; every network that counts was timed in turns with the original.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

import secateur as sc

ALLOCATIONS = (None, "lamp", "erk")
"""None: by the kernels' times, and by what removing a layer's weights does to the outputs."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("SECATEUR_DATA", "../shared/data"))
    )
    parser.add_argument("--share", type=float, default=50, help="percent of the original's time")
    parser.add_argument("--only", choices=["kernels", "lamp", "erk"], help="one allocation only")
    parser.add_argument("--json", type=Path, help="where rows are added")
    given = parser.parse_args()
    os.environ["SECATEUR_DATA"] = str(given.data)
    from quality_cases import CASES

    torch.set_num_threads(1)
    case = CASES["resnet20"]()
    for allocate in ALLOCATIONS:
        name = allocate or "kernels"
        if given.only not in (None, name):
            continue
        start = time.perf_counter()
        row = {"case": "resnet20", "share": given.share, "allocate": name}
        try:
            result = sc.prune(
                case.build(), case.example, data=case.data(), unit=sc.Weight(), allocate=allocate,
                budget=sc.Latency(f"{given.share}%"), become="packed",
            )  # fmt: skip
        except sc.SecateurError as error:
            row["why"] = str(error)
        else:
            assert result.before.latency and result.after.latency
            scores = case.scores(result.model, case.report)
            row |= {
                "score": float(scores.mean()),
                "error": float(scores.std() / len(scores) ** 0.5),
                "params": result.after.params / result.before.params,
                "before_ms": result.before.latency.median_ms,
                "after_ms": result.after.latency.median_ms,
                "layers": {r.name: [r.density, r.ms, r.dense_ms] for r in result.model.report.rows},
            }
        row["seconds"] = time.perf_counter() - start
        print({key: value for key, value in row.items() if key != "layers"}, flush=True)
        if given.json is not None:
            rows = json.loads(given.json.read_text()) if given.json.exists() else []
            given.json.write_text(json.dumps([*rows, row], indent=1))


if __name__ == "__main__":
    main()
