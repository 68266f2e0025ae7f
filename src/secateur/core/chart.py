"""A chart of points as a picture: a self-contained SVG, drawn here, without any library.

As `core/page.py` is to what is printed, this is to what is plotted: records say what is in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 20, 44, 56
_NAMES = {
    "dense": "original", "best": "not dominated", "dominated": "dominated", "chosen": "chosen",
}  # fmt: skip
_COLOURS = {"dense": "#d1495b", "best": "#00798c", "dominated": "#9aa5b1", "chosen": "#b7630a"}


@dataclass(frozen=True)
class Mark:
    """One point. kind: "dense" (the original), "best", "dominated" or "chosen"; error: of y.

    label: shown when the pointer rests on it. joined: the curve goes through it.
    """

    x: float
    y: float
    kind: Literal["dense", "best", "dominated", "chosen"] = "best"
    error: float | None = None
    label: str = ""
    joined: bool = True


@dataclass(frozen=True)
class Chart:
    """Points with axes, and a curve through those that are joined."""

    title: str
    x_label: str
    y_label: str
    marks: tuple[Mark, ...]


def svg(chart: Chart, names: Mapping[str, str] | None = None) -> str:
    """The chart as the text of an SVG file. names: what the legend calls each kind of mark.

    Example:
        >>> chart = Chart("Net", "MACs", "accuracy", (Mark(10, 0.9, "dense"), Mark(5, 0.88)))
        >>> svg(chart).startswith("<svg xmlns=") and svg(chart).count("<circle")
        2
    """
    xs = ticks([0.0, *(mark.x for mark in chart.marks)])
    ys = ticks([edge for mark in chart.marks for edge in _extent(mark)])
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(middle, 24, chart.title, size=15),
        *_grid(xs, ys),
        _text(middle, HEIGHT - 12, chart.x_label),
        _text(18, (_TOP + HEIGHT - _BOTTOM) / 2, chart.y_label, turned=True),
        _line(chart.marks, xs, ys),
        *(_mark(mark, xs, ys) for mark in sorted(chart.marks, key=lambda m: m.kind != "dominated")),
        *_legend(chart.marks, names or _NAMES),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def ticks(values: Sequence[float], about: int = 6) -> list[float]:
    """Round numbers from below the smallest value to above the largest, evenly spaced.

    Example:
        >>> ticks([0, 9.3])
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-280):
        pad = abs(low) / 10 if abs(low) > 1e-280 else 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _extent(mark: Mark) -> tuple[float, float]:
    error = mark.error or 0.0
    return mark.y - error, mark.y + error


def _place(value: float, scale: Sequence[float], start: float, end: float) -> float:
    return round(start + (value - scale[0]) / (scale[-1] - scale[0]) * (end - start), 2)


def _x(value: float, xs: Sequence[float]) -> float:
    return _place(value, xs, _LEFT, WIDTH - _RIGHT)


def _y(value: float, ys: Sequence[float]) -> float:
    return _place(value, ys, HEIGHT - _BOTTOM, _TOP)


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle", turned: bool = False
) -> str:
    turn = f' transform="rotate(-90 {x} {y})"' if turned else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="#1f2933"{turn}>'
        f"{escape(text)}</text>"
    )


def _grid(xs: Sequence[float], ys: Sequence[float]) -> list[str]:
    parts: list[str] = []
    for value in xs:
        x = _x(value, xs)
        parts.append(f'<path d="M{x} {_TOP}V{HEIGHT - _BOTTOM}" stroke="#e4e7eb"/>')
        parts.append(_text(x, HEIGHT - _BOTTOM + 18, _number(value)))
    for value in ys:
        y = _y(value, ys)
        parts.append(f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="#e4e7eb"/>')
        parts.append(_text(_LEFT - 8, y + 4, _number(value), anchor="end"))
    frame = f"M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"
    return [*parts, f'<path d="{frame}" fill="none" stroke="#52606d"/>']


def _line(marks: Sequence[Mark], xs: Sequence[float], ys: Sequence[float]) -> str:
    best = sorted((mark for mark in marks if mark.joined), key=lambda mark: mark.x)
    if len(best) < 2:
        return ""
    path = "L".join(f"{_x(mark.x, xs)} {_y(mark.y, ys)}" for mark in best)
    return f'<path d="M{path}" fill="none" stroke="{_COLOURS["best"]}" stroke-width="1.5"/>'


def _mark(mark: Mark, xs: Sequence[float], ys: Sequence[float]) -> str:
    x, y, colour = _x(mark.x, xs), _y(mark.y, ys), _COLOURS[mark.kind]
    bar = ""
    if mark.error:
        low, high = _extent(mark)
        bar = f'<path d="M{x} {_y(low, ys)}V{_y(high, ys)}" stroke="{colour}"/>'
    label = f"<title>{escape(mark.label)}</title>" if mark.label else ""
    return f'<g>{label}{bar}<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}"/></g>'


def _legend(marks: Sequence[Mark], names: Mapping[str, str]) -> list[str]:
    present = [kind for kind in names if any(mark.kind == kind for mark in marks)]
    parts: list[str] = []
    for k, kind in enumerate(present):
        y = HEIGHT - _BOTTOM - 14 - 16 * (len(present) - 1 - k)
        x = WIDTH - _RIGHT - 110
        parts.append(
            f'<rect x="{x - 4}" y="{y - 8}" width="8" height="8" fill="{_COLOURS[kind]}"/>'
        )
        parts.append(_text(x + 10, y, names[kind], anchor="start"))
    return parts


def _number(value: float) -> str:
    """A tick's label: prefixes for large numbers, no more digits than it has."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if prefix == 'k' else size):g}{prefix}"
    return f"{value:g}"
