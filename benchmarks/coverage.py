"""How much of the world can be pruned: the zoo, every model in its own process, with limits.

    python benchmarks/coverage.py --set all --out docs/coverage.md
    python benchmarks/coverage.py --shuffle 0 --seconds 120    # a sample, as large as time allows

A model is "ok" when half of every prunable axis was asked for, at least 30 % of its parameters are
gone, the outputs have the same shapes and are finite, a backward pass works, and zeroing the
removed weights of the original gives the outputs of the smaller model. Where normalisations run
over cut axes, that is compared with statistics that leave zeroed channels out, which is recorded,
and the library's own verification decides.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from coverage_child import check
from coverage_report import write
from zoo import SETS, registry

PRELOAD = ["torch", "torchvision", "timm", "transformers", "secateur.api", "coverage_child"]


def main() -> None:
    """Run what is asked for, and write the tables."""
    options = arguments()
    done = load(options.json) if options.resume else []
    seen = {(row["set"], row["name"], row["peer"]) for row in done}
    names = list(SETS) if options.set == "all" else options.set.split(",")
    jobs = [
        (s, n) for s in names for n in registry(s) if fnmatch(n, options.filter)
        if (s, n, options.peer) not in seen
    ]  # fmt: skip
    if options.shuffle is not None:
        random.Random(options.shuffle).shuffle(jobs)
    end = time.perf_counter() + options.seconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with (
        ThreadPoolExecutor(options.jobs) as pool,
        options.json.open("a" if options.resume else "w") as file,
    ):
        rows = pool.map(
            lambda job: attempt(context, job, options) if time.perf_counter() < end else None, jobs
        )
        for number, row in enumerate((row for row in rows if row is not None), 1):
            done.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
            progress(number, len(jobs), row)
    if options.out is not None:
        write(options.out, done)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", default="all", help="torchvision, timm, transformers, odd, or all")
    parser.add_argument("--filter", default="*", help="a glob of model names")
    parser.add_argument("--peer", default="secateur", choices=["secateur", "torch-pruning"])
    parser.add_argument("--time-limit", type=float, default=180, help="seconds a model")
    parser.add_argument("--memory-gib", type=float, default=10, help="memory a model")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument(
        "--json", type=Path, default=Path("coverage.jsonl"), help="rows, one a line"
    )
    parser.add_argument("--shuffle", type=int, help="a seed: models in random order")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="no model is started later than this"
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--out", type=Path, help="the markdown file to write")
    return parser.parse_args()


def load(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def attempt(context: Any, job: tuple[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """One model in a process of its own."""
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=child, args=(sender, *job, options.peer, options.memory_gib))
    start = time.perf_counter()
    worker.start()
    sender.close()
    row: dict[str, Any] = {"set": job[0], "name": job[1], "peer": options.peer, "status": "error"}
    try:
        if receiver.poll(options.time_limit):
            row = receiver.recv()
        else:
            row["reason"] = f"not finished after {options.time_limit:.0f} s"
    except EOFError:
        row["reason"] = "the process died (out of memory?)"
    worker.kill()
    worker.join()
    row["wall"] = round(time.perf_counter() - start, 1)
    return row


def child(sender: Any, *job: Any) -> None:
    """What runs in the process."""
    sender.send(check(*job))


def progress(number: int, total: int, row: dict[str, Any]) -> None:
    """A line for people."""
    kept = f"{row['kept']:.0%} kept" if "kept" in row else ""
    line = f"[{number}/{total}] {row['set']}/{row['name']}: {row['status']} {kept} "
    line += row.get("reason", "")
    sys.stderr.write(line[:300] + "\n")


if __name__ == "__main__":
    main()
