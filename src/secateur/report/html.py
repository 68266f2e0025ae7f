"""A report as one file: semantic HTML with its style, script and drawings inside, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from secateur.core.attempt import Attempt
from secateur.core.chart import Chart, Mark, svg
from secateur.core.page import Line, html, milliseconds, plural
from secateur.report.facts import Facts, Part
from secateur.report.theme import SCRIPT, STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(facts: Facts) -> str:
    """The whole file.

    The verdict comes first; then the network, what was tried, what stays and why, repairs, notes.
    """
    title = escape(f"{facts.title}, pruned")
    sections = [
        _section("Verdict", _verdict(facts)),
        _section("Network", _network(facts.parts)),
        _section("Search", _search(facts.attempts)),
        _section("What stays, and why", _frozen(facts)),
        _section("Repairs", _list(facts.repairs)),
        _section("Notes", _list(facts.notes)),
        _section("How it was made", _made(facts)),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1></header>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _verdict(facts: Facts) -> str:
    table = _table(facts.columns, facts.verdict, "The model before and after")
    return f"{table}\n{html(facts.lines)}"


def _network(parts: Sequence[Part]) -> str:
    """Blocks in the model's order, as wide as the root of their parameters, and a table."""
    if not parts:
        return ""
    largest = max(math.sqrt(part.before) for part in parts) or 1.0
    scale = min(9.0, 72 / math.sqrt(len(parts))) / largest  # rem for the root of a parameter
    blocks = "\n".join(_block(part, scale) for part in parts)
    rows = [
        f'<tr><th scope="row">{escape(part.name or "(the model)")}</th>'
        f'<td class="text">{escape(part.kind)}</td>'
        f'<td data-value="{part.before}">{part.before:,}</td>'
        f'<td data-value="{part.after}">{part.after:,}</td>'
        f'<td data-value="{_removed(part):.6f}">{_removed(part):.1%}</td></tr>'
        for part in parts
    ]
    heads = ("module", "kind", "before", "after", "removed")
    columns = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        '<p class="quiet">One block a module, in the model\'s order: the wider, the more '
        "parameters; the filled part is what is left. Rest on a block, or move to it with the "
        f'Tab key, for its numbers.</p>\n<ol class="net">\n{blocks}\n</ol>\n'
        f"<details><summary>{plural(len(parts), 'module')} as a table</summary>"
        '<div class="wide"><table class="sortable"><caption>Parameters by module, zeros not '
        f"counted</caption><thead><tr>{columns}</tr></thead><tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div></details>"
    )


def _block(part: Part, scale: float) -> str:
    width = 0.7 + scale * math.sqrt(part.before)
    text = escape(
        f"{part.name or '(the model)'}, {part.kind}: {part.before:,} → {part.after:,} "
        f"parameters, {_removed(part):.1%} removed"
    )
    return (
        f'<li tabindex="0" style="width:{width:.2f}rem" aria-label="{text}">'
        f'<i style="width:{100 * (1 - _removed(part)):.1f}%"></i>'
        f'<span aria-hidden="true">{text}</span></li>'
    )


def _removed(part: Part) -> float:
    return 1 - part.after / part.before if part.before else 0.0


def _search(attempts: Sequence[Attempt]) -> str:
    """The curve of what was tried, and each try in a row."""
    if not attempts:
        return ""
    rows = [
        (
            str(number),
            f"{attempt.share:.1%}",
            "" if attempt.left is None else f"{attempt.left:.1%}",
            "" if attempt.quality is None else f"{attempt.quality:.4g}",
            "" if attempt.latency_ms is None else milliseconds(attempt.latency_ms),
            "yes" if attempt.accepted else "no",
            attempt.why,
        )
        for number, attempt in enumerate(attempts, 1)
    ]
    heads = ("try", "allowed", "left", "quality", "latency", "meets all", "why")
    return _curve(attempts) + _table(heads, rows, "Networks that were tried, first to last")


def _curve(attempts: Sequence[Attempt]) -> str:
    """Quality, or else latency, over what is left of the cost that was turned."""
    for name, label in (("quality", "quality"), ("latency_ms", "latency, ms")):
        marks = tuple(
            Mark(
                100 * attempt.left,
                getattr(attempt, name),
                "best" if attempt.accepted else "dominated",
                label=f"try {number}: {attempt.why}",
                joined=False,
            )
            for number, attempt in enumerate(attempts, 1)
            if attempt.left is not None and getattr(attempt, name) is not None
        )
        if len(marks) > 1:
            chart = Chart("What was tried", "left, % of the original", label, marks)
            drawn = svg(chart, names={"best": "meets all goals", "dominated": "does not"})
            return f"<figure>{drawn}<figcaption>Every network tried.</figcaption></figure>\n"
    return ""


def _frozen(facts: Facts) -> str:
    if not facts.frozen:
        return ""
    rows = [(item.text, str(item.count), ", ".join(item.where)) for item in facts.frozen]
    return _table(("reason", "places", "lines of code"), rows, "What could not be removed")


def _made(facts: Facts) -> str:
    made = [f"{name} {text}" for name, text in facts.versions.items()]
    spent = [f"{stage} {value:.2f} s" for stage, value in facts.seconds.items()]
    text = html([Line(", ".join(made), "quiet")])
    if spent:
        text += html([Line("took: " + ", ".join(spent), "quiet")])
    if facts.command:
        return f"{text}\n<pre><code>{escape(facts.command)}</code></pre>"
    kept = "what was decided is in plan.json beside this file, and sc.load replays it"
    return text + html([Line(f"made in Python; {kept}", "quiet")])


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr>'
        f"</thead><tbody>\n{body}\n</tbody></table></div>"
    )
