"""The tables of docs/coverage.md, from the rows of coverage.py."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from pages import section
from speed import TITLE
from zoo import SETS, family

Row = dict[str, Any]
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "torch-pruning")


def write(path: Path, rows: list[Row]) -> None:
    """Write the markdown file."""
    ours = [row for row in rows if row["peer"] == "secateur"]
    peers = [row for row in rows if row["peer"] != "secateur"]
    parts = [
        "# Coverage",
        "Written by `python benchmarks/coverage.py --set all --out docs/coverage.md`. Asked for: "
        'half of every prunable axis. "ok": at least 30 % of the parameters are gone, outputs keep '
        "their shapes and are finite, backward works, and the masked original agrees. No model has "
        "code of its own; every one is randomly initialised and perturbed, so that the check is "
        "not vacuous.",
        '"Checked independently": the original with its weights zeroed through `sc.mask`, and '
        "nothing else of the library, gives the smaller model's outputs. Where a normalisation "
        "runs over a cut axis this needs its statistics to leave zeroed channels out; which those "
        "are is read off the activations (`benchmarks/alive.py`). Where even that says nothing, "
        "the library's own verification counts. Torch-Pruning has no plan to check against: there, "
        '"ok" says nothing about numbers.',
        f"{machine()}; {', '.join(versions())}.",
        "## By set",
        summary(ours, peers),
        "## Not ok, and why",
        failures(ours),
        "## Checked by the library alone",
        dependent(ours),
        "## Counts of multiply-accumulates that differ from torch.utils.flop_counter",
        macs(ours),
        "## By family",
        families(ours),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    timings = section(path, TITLE)
    path.write_text("\n\n".join(part for part in (*parts, timings) if part) + "\n")


def machine() -> str:
    """The processor, and how many cores there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, 1 thread a model"


def versions() -> Iterable[str]:
    """Installed versions."""
    for library in LIBRARIES:
        try:
            yield f"{library} {version(library)}"
        except PackageNotFoundError:
            continue


def table(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    """A markdown table, or a word that there is nothing."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return "None."
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def summary(ours: list[Row], peers: list[Row]) -> str:
    """ok of all, by set, side by side with the peer."""

    def row(name: str) -> list[str]:
        mine = [r for r in ours if r["set"] == name and r["status"] != "unbuildable"]
        theirs = [r for r in peers if r["set"] == name and r["status"] != "unbuildable"]
        seconds = [r["seconds"] for r in mine if "seconds" in r]
        kept = [r["kept"] for r in mine if r["status"] == "ok"]
        checked = [r for r in mine if "independent" in r]
        return [
            name,
            share(mine),
            share(theirs) if theirs else "not run",
            f"{median(seconds):.2f} s" if seconds else "",
            f"{median(kept):.0%}" if kept else "",
            f"{sum(r['independent'] for r in checked)} of {len(checked)}",
            str(sum("differs by" in r.get("reason", "") for r in mine)),
        ]

    head = ["set", "secateur ok", "torch-pruning ok", "median time", "median parameters kept"]
    head += ["checked independently", "wrong numbers"]
    return table(head, [row(name) for name in SETS])


def share(rows: list[Row]) -> str:
    """For example "94 of 98 (96 %)"."""
    ok = sum(row["status"] == "ok" for row in rows)
    return f"{ok} of {len(rows)} ({100 * ok / len(rows):.0f} %)" if rows else ""


def failures(rows: list[Row]) -> str:
    """Every model that is not ok, with its reason and what it names as frozen."""

    def reason(row: Row) -> str:
        text = row.get("reason", "")
        frozen = [f for f in row.get("frozen", []) if "input of" not in f and "output of" not in f]
        return cell(text + (": " + "; ".join(frozen[:4]) if frozen else ""))

    bad = [row for row in rows if row["status"] != "ok"]
    return table(["set", "model", "reason"], [[r["set"], r["name"], reason(r)] for r in bad])


def dependent(rows: list[Row]) -> str:
    """Models where no independent check was conclusive."""
    bad = [r for r in rows if r["status"] == "ok" and not r.get("independent", True)]
    head = ["set", "model", "zeroed weights differ by", "with statistics of what is left"]
    cells = [[r["set"], r["name"], r["masked_gap"], r.get("alive_gap", 0.0)] for r in bad]
    return table(head, [[*row[:2], *(f"{gap:.1g}" for gap in row[2:])] for row in cells])


def cell(text: str) -> str:
    """Text that fits a table."""
    return text.replace("|", "/").replace("\n", " ")[:420]


def macs(rows: list[Row]) -> str:
    """Models whose count differs."""
    keys = ("macs_before", "macs_after")
    bad = [(r, key) for r in rows for key in keys if key in r]
    head = ["model", "when", "secateur", "flop_counter / 2"]
    return table(head, [[r["name"], key[5:], f"{r[key][0]:,}", f"{r[key][1]:,}"] for r, key in bad])


def families(rows: list[Row]) -> str:
    """ok of all, by family."""
    total: Counter[tuple[str, str]] = Counter()
    good: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["status"] != "unbuildable":
            key = (row["set"], family(row["set"], row["name"]))
            total[key] += 1
            good[key] += row["status"] == "ok"
    return table(
        ["set", "family", "ok"], [[s, f, f"{good[s, f]}/{n}"] for (s, f), n in total.items()]
    )
