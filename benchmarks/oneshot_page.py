"""Writes docs/oneshot.md from the rows of benchmarks/oneshot.json."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
_HEAD = """# Single weights, one shot

What is left after single weights are removed without any training and without labels: 512
calibration samples, one thread. Made by `python benchmarks/oneshot.py run` and `write`; figures are
on the report half of the test data, which nothing has seen, with their standard error. Times are
of a busy machine, and compare only roughly.

Columns: *mask* is the criterion, *allocation* how much goes where, *repair* what was done after:
"norms" re-estimates batch normalisations (`Recalibrate`), "least squares" solves every layer on its
support (`Reconstruct`). SparseGPT, ALPS and OBC choose a mask and the weights at once.
"""
_NAMES = {
    "resnet20": "ResNet-20, CIFAR-10 (JPEG): accuracy",
    "char_gpt": "char GPT, Shakespeare: nats a character (lower is better)",
    "char_lstm": "char LSTM, Shakespeare: nats a character (lower is better)",
}
_UNITS = {"weight": "any", "row": "half of each output's", "2:4": "2:4"}


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    machine = found["machine"]
    lines = [_HEAD, f"torch {machine['torch']}, {machine['cpu']}, {machine['threads']} thread."]
    for name, title in _NAMES.items():
        rows = [row for row in found["rows"] if row["case"] == name]
        if rows:
            lines += ["", f"## {title}", "", *_case(name, rows)]
    return "\n".join(lines) + "\n"


def _case(name: str, rows: list[Row]) -> list[str]:
    dense = next(row for row in rows if "criterion" not in row)
    lines = [f"Dense: {_score(name, dense)}."]
    lines += ["", f"Measured on {dense['machine']}.", ""] if "machine" in dense else [""]
    if name == "resnet20":
        lines += _claims([row for row in rows if "criterion" in row])
    lines += [
        "| weights | removed | mask | allocation | repair | score | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "criterion" in row:
            kept = f"{1 - row['density']:.1%}"
            cells = (
                _UNITS[row["unit"]], kept, row["criterion"], row["allocate"], row["repair"],
                _score(name, row), f"{row['seconds']:.0f}",
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _claims(rows: list[Row]) -> list[str]:
    """Repair against the best allocation of magnitudes with re-estimated norms."""
    lines = []
    for sparsity in sorted({row["sparsity"] for row in rows}):
        here = [row for row in rows if row["sparsity"] == sparsity]
        plain = [r for r in here if r["criterion"] == "magnitude" and r["repair"] == "norms"]
        solved = [r for r in here if r not in plain and r["repair"] != "none"]
        if not plain or not solved:
            continue
        first, second = (max(part, key=lambda r: r["selection"]) for part in (plain, solved))
        gain = 100 * (second["score"] - first["score"])
        lines.append(
            f"At {sparsity:.0%}: the best allocation of magnitudes with re-estimated norms "
            f"({first['allocate']}) has {first['score']:.2%}; {second['criterion']} "
            f"({second['allocate']}, {second['repair']}) has {second['score']:.2%}, "
            f"{gain:+.1f} points. Both were chosen on the selection half."
        )
    return [*lines, ""]


def _score(name: str, row: Row) -> str:
    if name == "resnet20":
        return f"{row['score']:.2%} ± {row['error']:.2%}"
    return f"{row['score']:.4f} ± {row['error']:.4f}"
