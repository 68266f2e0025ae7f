"""A part of a report that something else than a prune has made: words, a chart, a drawing."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from secateur.core.chart import Chart
from secateur.core.drawing import Drawing
from secateur.core.page import Page


@dataclass(frozen=True)
class Picture:
    """A small image, as the text of a PNG in base64, and what it shows."""

    caption: str
    png: str

    @classmethod
    def of(cls, caption: str, pixels: npt.NDArray[np.uint8]) -> Picture:
        """From pixels `[h, w]` (grey) or `[h, w, 3]`.

        Example:
            >>> Picture.of("white", np.full((2, 2), 255, dtype=np.uint8)).png[:8]
            'iVBORw0K'
        """
        height, width = pixels.shape[:2]
        kind = 2 if pixels.ndim == 3 else 0
        rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
        head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
        parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts
        )
        return cls(caption, base64.b64encode(data).decode("ascii"))


@dataclass(frozen=True)
class Panel:
    """A section of a report. page: lines and tables; the title is the section's."""

    title: str
    page: Page
    chart: Chart | None = None
    drawing: Drawing | None = None
    pictures: tuple[Picture, ...] = ()


@runtime_checkable
class Shown(Protocol):
    """Anything that a report can show beside a result."""

    @property
    def panel(self) -> Panel:
        """What a report shows."""
        ...


__all__ = ["Panel", "Picture", "Shown"]
