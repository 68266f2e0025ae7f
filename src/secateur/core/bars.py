"""What is left of each part, as a picture of bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _BAR, _ROW, _TOP = 640, 220, 300, 22, 40


@dataclass(frozen=True)
class Bar:
    """One part: how much there was, and how much of it is left."""

    name: str
    whole: int
    left: int


def svg(title: str, bars: Sequence[Bar]) -> str:
    """Bars as the text of an SVG file: as long as the root of what there was, filled by what stays.

    Example:
        >>> text = svg("Net", [Bar("conv1", 64, 32), Bar("fc", 16, 16)])
        >>> text.count("<rect"), "conv1" in text
        (5, True)
    """
    height = _TOP + _ROW * len(bars) + 10
    largest = max((bar.whole**0.5 for bar in bars), default=1.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12" '
        'fill="#1f2933">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_WIDTH / 2}" y="24" font-size="15" text-anchor="middle">{escape(title)}</text>',
    ]
    for row, bar in enumerate(bars):
        y = _TOP + row * _ROW
        whole = _BAR * bar.whole**0.5 / largest
        share = bar.left / bar.whole if bar.whole else 1.0
        name = bar.name if len(bar.name) <= 30 else "…" + bar.name[-29:]
        parts += [
            f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{y + 3}" width="{whole:.1f}" height="15" fill="#e8b4ba"/>',
            f'<rect x="{_LABEL}" y="{y + 3}" width="{whole * share:.1f}" height="15" '
            'fill="#00798c"/>',
            f'<text x="{_LABEL + whole + 8:.1f}" y="{y + 14}">{bar.left:,} of {bar.whole:,}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


__all__ = ["Bar", "svg"]
