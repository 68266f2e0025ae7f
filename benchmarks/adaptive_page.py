"""The page of the adaptive benchmark, from its figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from speed import processor

Found = dict[str, Any]


def page(found: Found) -> str:
    """All parts that there are."""
    parts = [
        f"Written by `python benchmarks/adaptive.py`; {os.cpu_count()} cores of {processor()}, "
        f"{found.get('threads', 1)} thread(s). Accuracies are of data that nothing has seen."
    ]
    for name, draw in DRAWN.items():
        if name in found:
            parts.append("".join(draw(found[name])))
    return "\n\n".join(parts)


def table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A title and a table."""
    heads = list(heads)
    yield f"**{title}**\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for row in rows:
        yield f"\n| {' | '.join(row)} |"


def _dial(found: Found) -> Iterator[str]:
    rows = []
    for case in found.values():
        for row in case["rows"]:
            alone = row.get("alone")
            gap = "" if alone is None else f"{row['score'] - alone:+.4f}"
            rows.append((
                case["case"], f"{row['level']:g}", f"{row['macs']:.1%}", f"{row['score']:.4f}",
                "" if alone is None else f"{alone:.4f}", gap, f"{case['memory']:.2f} x",
            ))  # fmt: skip
    heads = ("model", "level", "MACs", "dial", "pruned alone", "difference", "memory of all")
    yield from table(
        "Levels of a dial, and networks pruned by themselves (no training)", heads, rows
    )
    yield "\n\nAccuracy; of the char GPT nats per character (less is better)."


def _deadline(found: Found) -> Iterator[str]:
    rows = [
        (
            name, ", ".join(f"{level}: {ms:.2f}" for level, ms in r["ms"].items()),
            ", ".join(f"{level}: {x:.2f}" for level, x in r["ratio"].items() if level != "1"),
            f"{r['switch_us']:.1f} µs", f"{r['unpack_ms']:.0f} ms", f"{r['memory']:.2f} x",
            f"{r['deadlines']['met']:.1%} of {r['deadlines']['calls']:,}",
            "yes" if r["deadlines"]["infeasible_refused"] else "NO",
        )
        for name, r in found.items()
    ]  # fmt: skip
    heads = (
        "dial", "ms by level", "of dense", "switching", "first use", "memory",
        "deadlines met", "infeasible ones refused",
    )  # fmt: skip
    yield from table("Latency of levels at batch 1, switching, deadlines", heads, rows)


def _gates(found: Found) -> Iterator[str]:
    rows = [
        (f"{r['keep']:.0%}", f"{r['macs']:.1%}", f"{r['score']:.4f}", f"{r['static']:.4f}",
         f"{r['static_macs']:.1%}")
        for r in found["rows"]
    ]  # fmt: skip
    title = f"Channels chosen for every input, no training: {found['case']}, {found['dense']:.4f}"
    heads = ("channels", "MACs", "gated", "pruned to the same MACs", "its MACs")
    yield from table(title, heads, rows)


def _gates_time(found: Found) -> Iterator[str]:
    rows = [
        (name, f"{r['dense_ms']:.2f}", f"{r['ms']:.2f}", f"{r['dense_ms'] / r['ms']:.2f} x",
         ", ".join(f"{n}: {a:.1f} -> {b:.1f}" for n, (a, b) in r["batches"].items()))
        for name, r in found.items()
    ]  # fmt: skip
    heads = ("model, half of the channels", "dense ms", "gated ms", "times as fast", "by batch")
    yield from table("Gates on a single sample", heads, rows)


def _activations(found: Found) -> Iterator[str]:
    rows = [
        (case["case"], f"{r['sparsity']:.0%}", f"{case['dense']:.4f}", f"{r['greedy']:.4f}",
         f"{r['uniform']:.4f}", f"{r['greedy_read']:.1%}")
        for case in found.values()
        for r in case["rows"]
    ]  # fmt: skip
    heads = ("model", "skipped", "dense", "greedy", "uniform", "weights read")
    yield from table(
        "Activations skipped, no training (accuracy, or nats per character)", heads, rows
    )


def _activations_time(found: Found) -> Iterator[str]:
    rows = [
        (f"matrix {r['shape'][0]} x {r['shape'][1]}", f"{r['dense_ms']:.3f}", f"{r['ms']:.3f}",
         f"{r['dense_ms'] / r['ms']:.2f} x")
        for r in found["matrices"]
    ]  # fmt: skip
    rows += [
        (r["name"], f"{r['dense_ms']:.3f}", f"{r['ms']:.3f}", f"{r['dense_ms'] / r['ms']:.2f} x")
        for r in found["models"]
    ]
    heads = ("at 50 %, batch 1", "dense ms", "skipping ms", "times as fast")
    yield from table("Matrix-vector products that skip (dense: the best of three)", heads, rows)


def _exits(found: Found) -> Iterator[str]:
    rows = [
        (r["case"], f"{r['guarantee']:.0%}", f"{r['kept']} of {len(r['agreements'])}",
         f"{min(r['agreements']):.2%}", f"{sum(r['work']) / len(r['work']):.0%}")
        for r in found.values()
    ]  # fmt: skip
    heads = ("model", "guarantee", "kept on unseen data", "least agreement", "mean work")
    yield from table("Early exits, calibrated anew 20 times", heads, rows)


def _exits_time(found: Found) -> Iterator[str]:
    rows = [
        (r["case"], f"{r['guarantee']:.0%}", f"{r['dense_ms']:.2f}", f"{r['ms']:.2f}",
         f"{r['ms'] / r['dense_ms']:.2f}", f"{r['work']:.0%}")
        for r in found.values()
    ]  # fmt: skip
    heads = ("model", "guarantee", "dense ms", "exits ms", "ratio of means", "work")
    yield from table("Early exits at batch 1, mean latency of 280 inputs", heads, rows)


def _controller(found: Found) -> Iterator[str]:
    rows = [
        (name, *(f"{ms:.0f}" for ms in r["p95"].values()), str(r["turns"]), str(r["ignored"]))
        for name, r in found.items()
    ]
    heads = ("simulated server", "light", "tripled", "light again", "turns", "ignored latencies")
    target = next(iter(found.values()))["target_ms"]
    yield from table(f"Controller: 95th percentile in ms, target {target:g} ms", heads, rows)
    yield "\n\nFaults: three requests hang for half a second, every 97th latency is NaN, every "
    yield "501st negative (a clock that was set back)."


def _load(found: Found) -> Iterator[str]:
    rows = [
        (name, *(f"{ms:.1f}" for ms in found[name]["p95"].values()),
         " / ".join(str(n) for n in found[name]["requests"].values()))
        for name in ("fixed", "dial")
    ]  # fmt: skip
    heads = ("server over HTTP", "light", "tripled", "light again", "requests")
    title = f"`examples/serve.py`: 95th percentile in ms, target {found['target_ms']:.1f} ms"
    yield from table(title, heads, rows)
    yield f"\n\n```text\n{found['dial']['report']}\n```"


DRAWN = {
    "dial": _dial,
    "deadline": _deadline,
    "gates": _gates,
    "gates-time": _gates_time,
    "activations": _activations,
    "activations-time": _activations_time,
    "exits": _exits,
    "exits-time": _exits_time,
    "controller": _controller,
    "load": _load,
}
