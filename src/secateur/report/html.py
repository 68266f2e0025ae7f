"""A report as one file: semantic HTML with its style, script and drawings inside, no network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from secateur.core import drawing
from secateur.core.attempt import Attempt, tradeoff
from secateur.core.chart import svg
from secateur.core.page import Line, Table, html, milliseconds, plural
from secateur.core.panel import Panel
from secateur.report.facts import Facts, Part
from secateur.report.theme import SCRIPT, STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def document(facts: Facts) -> str:
    """The whole file.

    The verdict comes first; then the network, what was tried, what else was made of the model, what
    stays and why, repairs, notes.
    """
    title = escape(f"{facts.title}, pruned")
    sections = [
        _section("Verdict", _verdict(facts)),
        _section("Network", _network(facts.parts)),
        _section("Search", _search(facts.attempts)),
        *(_section(panel.title, _panel(panel)) for panel in facts.panels),
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
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _verdict(facts: Facts) -> str:
    table = _table(facts.columns, facts.verdict, "The model before and after")
    return f"{table}\n{html(facts.lines)}"


def _network(parts: Sequence[Part]) -> str:
    """Blocks in the model's order, as wide as the root of what they cost, and a table."""
    if not parts:
        return ""
    worked = any(part.work[0] for part in parts)
    costs = [part.work if worked else (part.before, part.after) for part in parts]
    largest = max(math.sqrt(before) for before, _ in costs) or 1.0
    scale = min(9.0, 72 / math.sqrt(len(parts))) / largest  # rem for the root of one
    blocks = "\n".join(_block(*each, scale) for each in zip(parts, costs, strict=True))
    rows = [_row(part, worked) for part in parts]
    heads = ("module", "kind", "parameters", "left", "removed")
    heads += ("MACs", "MACs left", "MACs removed") if worked else ()
    columns = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        '<p class="quiet">One block a module, in the model\'s order: the wider, the more '
        f"{'MACs' if worked else 'parameters'}; the filled part is what is left. Rest on a block, "
        "or move to it with the Tab key, for its numbers."
        f'</p>\n<ol class="net">\n{blocks}\n</ol>\n'
        f"<details><summary>{plural(len(parts), 'module')} as a table</summary>"
        '<div class="wide"><table class="sortable"><caption>Cost by module, zeros not '
        f"counted</caption><thead><tr>{columns}</tr></thead><tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div></details>"
    )


def _row(part: Part, worked: bool) -> str:
    pairs = [(part.before, part.after), *([part.work] if worked else [])]
    cells = "".join(
        f'<td data-value="{before}">{before:,}</td><td data-value="{after}">{after:,}</td>'
        f'<td data-value="{_removed(before, after):.6f}">{_removed(before, after):.1%}</td>'
        for before, after in pairs
    )
    return (
        f'<tr><th scope="row">{escape(part.name or "(the model)")}</th>'
        f'<td class="text">{escape(part.kind)}</td>{cells}</tr>'
    )


def _block(part: Part, cost: tuple[int, int], scale: float) -> str:
    text = (
        f"{part.name or '(the model)'}, {part.kind}: {_change(part.before, part.after)} parameters"
    )
    if part.work[0]:
        text += f", {_change(*part.work)} MACs"
    left, text = 1 - _removed(*(cost if cost[0] else (part.before, part.after))), escape(text)
    return (
        f'<li tabindex="0" style="width:{0.7 + scale * math.sqrt(cost[0]):.2f}rem" '
        f'aria-label="{text}"><i style="width:{100 * left:.1f}%"></i>'
        f'<span aria-hidden="true">{text}</span></li>'
    )


def _change(before: int, after: int) -> str:
    return f"{before:,} → {after:,} ({_removed(before, after):.1%} removed)"


def _removed(before: int, after: int) -> float:
    return 1 - after / before if before else 0.0


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
    return _curve(attempts) + _table(
        heads, rows, "Networks that were tried, first to last", frozenset({5, 6})
    )


def _curve(attempts: Sequence[Attempt]) -> str:
    """Quality, or else latency, over what is left of the cost that was turned."""
    chart = tradeoff(attempts)
    if chart is None:
        return ""
    names = {"chosen": "chosen", "best": "meets all goals", "dominated": "does not"}
    drawn = svg(chart, names=names)
    return f"<figure>{drawn}<figcaption>Every network tried.</figcaption></figure>\n"


def _panel(panel: Panel) -> str:
    """Pictures first, then words and tables; the page's own title is the first line."""
    parts = []
    if panel.chart is not None:
        parts.append(f'<figure class="wide">{svg(panel.chart)}</figure>')
    if panel.drawing is not None:
        drawn = drawing.svg(panel.drawing)
        parts.append(
            f'<figure class="wide" tabindex="0" aria-label="{escape(panel.drawing.title)}, drawn">'
            f"{drawn}<figcaption>Lines are as wide as their weights, blue ones positive, red ones "
            "negative. Rest on a line or a unit for its numbers.</figcaption></figure>"
        )
    for item in panel.page:
        if isinstance(item, Table):
            parts.append(_table(item.columns, item.rows, panel.title, item.left))
        else:
            parts.append(html([Line(item.text, item.tone)]))
    if panel.pictures:
        shown = "".join(
            f'<li><img src="data:image/png;base64,{picture.png}" alt="{escape(picture.caption)}">'
            f"<span>{escape(picture.caption)}</span></li>"
            for picture in panel.pictures
        )
        parts.append(f'<ul class="pictures">{shown}</ul>')
    return "\n".join(parts)


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


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    left: frozenset[int] | None = None,
) -> str:
    """left: columns of words, of a table that can be sorted; None: it cannot."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{_words(left, k)}>{escape(cell)}</td>" for k, cell in enumerate(rest, 1))
        + "</tr>"
        for first, *rest in rows
    )
    kind = "" if left is None else ' class="sortable"'
    return (
        f'<div class="wide"><table{kind}><caption>{escape(caption)}</caption><thead><tr>{head}</tr>'
        f"</thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _words(left: frozenset[int] | None, column: int) -> str:
    return ' class="text"' if left and column in left else ""
