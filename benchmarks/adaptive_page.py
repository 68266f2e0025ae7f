"""The page of the adaptive benchmark, from its figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from speed import processor

Found = dict[str, Any]
Rows = Iterator[tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """A table of the page.

    title: `{case}` and the like are fields of what was found. rows: of what was found. foot: below.
    """

    title: str
    heads: tuple[str, ...]
    rows: Callable[[Found], Rows]
    foot: Callable[[Found], str] = lambda found: ""

    def draw(self, found: Found) -> str:
        """The title, the table and the text below it."""
        lines = [f"**{self.title.format(**found)}**", ""]
        lines += [f"| {' | '.join(self.heads)} |", "|---" * len(self.heads) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows(found)]
        foot = self.foot(found)
        return "\n".join([*lines, "", foot] if foot else lines)


def page(found: Found) -> str:
    """All parts that there are."""
    parts = [
        f"Written by `python benchmarks/adaptive.py`; {os.cpu_count()} cores of {processor()}, "
        f"{found.get('threads', 1)} thread(s). Accuracies are of data that nothing has seen."
    ]
    parts += [part.draw(found[name]) for name, part in PARTS.items() if name in found]
    return "\n\n".join(parts)


def _speedup(row: Found) -> tuple[str, str, str]:
    before, after = row["dense_ms"], row["ms"]
    digits = 3 if before < 10 else 2
    return f"{before:.{digits}f}", f"{after:.{digits}f}", f"{before / after:.2f} x"


def _dial(found: Found) -> Rows:
    for case in found.values():
        for row in case["rows"]:
            alone = row.get("alone")
            pair = ("", "") if alone is None else (f"{alone:.4f}", f"{row['score'] - alone:+.4f}")
            yield (
                case["case"], f"{row['level']:g}", f"{row['macs']:.1%}", f"{row['score']:.4f}",
                *pair, f"{case['memory']:.2f} x",
            )  # fmt: skip


def _deadline(found: Found) -> Rows:
    for name, r in found.items():
        kept = r["deadlines"]
        yield (
            name, ", ".join(f"{level}: {ms:.2f}" for level, ms in r["ms"].items()),
            ", ".join(f"{level}: {x:.2f}" for level, x in r["ratio"].items() if level != "1"),
            f"{r['switch_us']:.1f} µs", f"{r['unpack_ms']:.0f} ms", f"{r['memory']:.2f} x",
            f"{kept['met']:.1%} of {kept['calls']:,}",
            "yes" if kept["infeasible_refused"] else "NO",
        )  # fmt: skip


def _gates(found: Found) -> Rows:
    for r in found["rows"]:
        scores = f"{r['score']:.4f}", f"{r['static']:.4f}"
        yield f"{r['keep']:.0%}", f"{r['macs']:.1%}", *scores, f"{r['static_macs']:.1%}"


def _gates_time(found: Found) -> Rows:
    for name, r in found.items():
        if "refused" in r:
            yield name, "", "", "", f"refused: {r['refused']}"
        else:
            batches = ", ".join(f"{n}: {a:.1f} -> {b:.1f}" for n, (a, b) in r["batches"].items())
            yield name, *_speedup(r), batches


def _activations(found: Found) -> Rows:
    for case in found.values():
        for r in case["rows"]:
            scores = (f"{score:.4f}" for score in (case["dense"], r["greedy"], r["uniform"]))
            yield case["case"], f"{r['sparsity']:.0%}", *scores, f"{r['greedy_read']:.1%}"


def _activations_time(found: Found) -> Rows:
    for r in found["matrices"]:
        yield f"matrix {r['shape'][0]} x {r['shape'][1]}", *_speedup(r)
    for r in found["models"]:
        yield r["name"], *_speedup(r)


def _exits(found: Found) -> Rows:
    for r in found.values():
        yield (
            r["case"], f"{r['guarantee']:.0%}", f"{r['kept']} of {len(r['agreements'])}",
            f"{min(r['agreements']):.2%}", f"{sum(r['work']) / len(r['work']):.0%}",
        )  # fmt: skip


def _exits_time(found: Found) -> Rows:
    for r in found.values():
        ratio = f"{r['ms'] / r['dense_ms']:.2f}"
        where = ", ".join(r["at"]) if any(r["leaving"]) else "none: they save no time"
        yield r["case"], f"{r['guarantee']:.0%}", *_speedup(r)[:2], ratio, f"{r['work']:.0%}", where


def _controller(found: Found) -> Rows:
    for name, r in found.items():
        times = (f"{ms:.0f}" for ms in r["p95"].values())
        yield name, *times, str(r["turns"]), str(r["ignored"])


def _load(found: Found) -> Rows:
    for name in ("fixed", "dial"):
        times = (f"{ms:.1f}" for ms in found[name]["p95"].values())
        yield name, *times, " / ".join(str(n) for n in found[name]["requests"].values())


PHASES = ("light", "tripled", "light again")
PARTS = {
    "dial": Part(
        "Levels of a dial, and networks pruned by themselves (no training)",
        ("model", "level", "MACs", "dial", "pruned alone", "difference", "memory of all"),
        _dial,
        lambda found: "Accuracy; of the char GPT nats per character (less is better).",
    ),
    "deadline": Part(
        "Latency of levels at batch 1, switching, deadlines",
        ("dial", "ms by level", "of dense", "switching", "first use", "memory", "deadlines met",
         "infeasible ones refused"),
        _deadline,
    ),
    "gates": Part(
        "Channels chosen for every input, no training: {case}, {dense:.4f}",
        ("channels", "MACs", "gated", "pruned to the same MACs", "its MACs"),
        _gates,
    ),
    "gates-time": Part(
        "Gates on a single sample",
        ("model, half of the channels", "dense ms", "gated ms", "times as fast", "by batch"),
        _gates_time,
    ),
    "activations": Part(
        "Activations skipped, no training (accuracy, or nats per character)",
        ("model", "skipped", "dense", "greedy", "uniform", "weights read"),
        _activations,
    ),
    "activations-time": Part(
        "Matrix-vector products that skip (dense: the best of three)",
        ("at 50 %, batch 1", "dense ms", "skipping ms", "times as fast"),
        _activations_time,
    ),
    "exits": Part(
        "Early exits, calibrated anew 20 times",
        ("model", "guarantee", "kept on unseen data", "least agreement", "mean work"),
        _exits,
    ),
    "exits-time": Part(
        "Early exits at batch 1, mean latency of 280 inputs",
        ("model", "guarantee", "dense ms", "exits ms", "ratio of means", "work", "behind"),
        _exits_time,
    ),
    "controller": Part(
        "Controller: 95th percentile in ms, target {fixed[target_ms]:g} ms",
        ("simulated server", *PHASES, "turns", "ignored latencies"),
        _controller,
        lambda found: "Faults: three requests hang for half a second, every 97th latency is NaN, "
        "every 501st negative (a clock that was set back).",
    ),
    "load": Part(
        "`examples/serve.py`: 95th percentile in ms, target {target_ms:.1f} ms",
        ("server over HTTP", *PHASES, "requests"),
        _load,
        lambda found: f"```\n{found['dial']['report']}\n```",
    ),
}  # fmt: skip
