"""However rows and positions are split, the loops around the segments visit all of them."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.runtime.emit.isa import AVX2
from secateur.runtime.emit.order import Tile
from secateur.runtime.emit.planes import EmittedKernel, available
from secateur.runtime.planes import from_linear


@pytest.mark.skipif(AVX2 not in available(), reason="this processor has no AVX2")
@pytest.mark.parametrize("tiles", [1, 2, 5, 100])
@pytest.mark.parametrize("code", [1, 3000, 10**9])
@pytest.mark.parametrize("columns", [500, 2000, 10**9])
def test_every_split_gives_the_same(tiles: int, code: int, columns: int) -> None:
    weight = (np.arange(13 * 20).reshape(13, 20) % 3 - 1).astype(np.float32)
    layer = from_linear(weight, pitch=96, activation="relu")
    x = (np.arange(20 * 96).reshape(20, 96) % 17).astype(np.float32)
    y = np.full((13, 96), -1, np.float32)
    kernel = EmittedKernel(layer, Tile(3, 2, tiles, columns, code), AVX2)
    kernel(x.ctypes.data, y.ctypes.data, 0, 16, 80, 3, 13)
    right = np.maximum(weight @ x, 0)
    right[:, :16], right[:, 80:], right[:3] = -1, -1, -1
    np.testing.assert_array_equal(y, right)
