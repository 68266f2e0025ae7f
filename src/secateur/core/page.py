"""What an object says when it is printed: headings, tables and lines, and their plain-text form.

The command line draws the same pages in colour (`report/tables.py`), so the two never differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

Tone = Literal["plain", "good", "warn", "quiet"]


@dataclass(frozen=True)
class Line:
    """One line of text. tone: "good" (proven), "warn" (look at this), "quiet" (detail)."""

    text: str
    tone: Tone = "plain"
    title: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under column heads; the first column is aligned left, as are `left` ones."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})


Page = tuple[Line | Table, ...]


def plain(page: Iterable[Line | Table]) -> str:
    """The page as text without colour; every line ends where its text ends.

    Example:
        >>> print(plain([Line("Net", title=True), Table(("", "n"), (("a", "1"), ("bc", "20")))]))
        Net
             n
        a    1
        bc  20
    """
    lines: list[str] = []
    for item in page:
        lines += [item.text] if isinstance(item, Line) else _rows(item)
    return "\n".join(lines)


def html(page: Iterable[Line | Table]) -> str:
    r"""The page as a fragment of HTML, in which nothing that a model is called can be markup.

    Example:
        >>> html([Line("a < b", "warn"), Table(("", "n"), (("w", "1"),))])
        '<p class="warn">a &lt; b</p>\n<table>...<td>1</td></tr></tbody></table>'
    """
    parts: list[str] = []
    for item in page:
        if isinstance(item, Table):
            parts.append(_html_table(item))
        else:
            tag = "h3" if item.title else "p"
            parts.append(f'<{tag} class="{item.tone}">{escape(item.text)}</{tag}>')
    return "\n".join(parts)


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = [
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in table.rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _rows(table: Table) -> list[str]:
    cells = [table.columns, *table.rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    return [
        "  ".join(
            cell.ljust(width) if i in table.left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def amount(value: float, unit: str = "") -> str:
    """A number with three digits that count and a decimal prefix.

    Example:
        >>> amount(1234), amount(2.5e9, "MACs"), amount(999, "B"), amount(1_536_000, "B")
        ('1.23 k', '2.50 GMACs', '999 B', '1.54 MB')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
            return f"{scaled:.{digits}f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def change(before: float, after: float) -> str:
    """The relative change, signed.

    Example:
        >>> change(200, 101), change(0, 0)
        ('-49.5%', '')
    """
    return "" if before == 0 else f"{(after - before) / before:+.1%}"


def milliseconds(value: float) -> str:
    """Milliseconds with three digits that count.

    Example:
        >>> milliseconds(0.01234), milliseconds(4.5678), milliseconds(1234.5)
        ('0.0123 ms', '4.57 ms', '1,234 ms')
    """
    if value < 1:
        return f"{value:.3g} ms"
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def plural(n: int, word: str) -> str:
    """A count and its word, given in either number; a width is never many.

    Example:
        >>> plural(1, "site"), plural(1, "filters"), plural(64, "residual width"), plural(2, "axis")
        ('1 site', '1 filter', '64 residual width', '2 axes')
    """
    if word == "axis":
        return f"{n:,} {'axis' if n == 1 else 'axes'}"
    one = word.removesuffix("s")
    return f"{n:,} {one}" if n == 1 or one.endswith("width") else f"{n:,} {one}s"
