"""Small images are PNG files that others can read."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from secateur.core.panel import Panel, Picture, Shown


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_pixels_come_back(shape: tuple[int, ...]) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = base64.b64decode(Picture.of("x", pixels).png, validate=True)
    assert np.array_equal(np.asarray(image.open(io.BytesIO(data))), pixels)


def test_anything_with_a_panel_is_shown() -> None:
    class Some:
        panel = Panel("A", ())

    assert isinstance(Some(), Shown)
    assert not isinstance(3, Shown)
