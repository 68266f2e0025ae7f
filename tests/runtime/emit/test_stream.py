"""The records of a looping kernel hold every non-zero once, sorted within their row blocks."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.runtime.emit.stream import _LATER, HEAD, NEAR, stream
from secateur.runtime.planes import from_linear


@pytest.mark.parametrize(("rows", "many"), [(4, 1), (3, 1), (4, 3), (100, 2)])
@pytest.mark.parametrize("near", [False, True])
def test_records_hold_the_matrix(rows: int, many: int, near: bool) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((11, 20)) * (rng.random((11, 20)) < 0.4)).astype(np.float32)
    bias = rng.standard_normal(11).astype(np.float32)
    layer = from_linear(weight, pitch=8, out_pitch=16, bias=bias)
    block = layer.offsets // 8 * many // 20
    index, data = stream(layer, block, many, rows, near)
    found, biases, outputs = np.zeros_like(weight), np.zeros(11), []
    assert index.shape == (many, -(-11 // rows) + 1)
    for b in range(many):
        for part in range(index.shape[1] - 1):
            at, end, lengths = index[b, part] // 4, index[b, part + 1] // 4, []
            while at < end:
                row, size = data[at] // 64, data[at + 1] // 4
                assert part * rows <= row < (part + 1) * rows
                outputs.append((row, data[at + 2] // 64))
                at += HEAD
                if b == 0:
                    biases[row] = data.view(np.float32)[at]
                    at += 1
                distances, values = _near(data[at:][:size]) if near else _far(data[at:][:size])
                column = distances // 32
                assert (np.diff(column) > 0).all()
                assert (column * many // 20 == b).all()
                found[row, column] += values
                lengths.append(len(values))
                at += size
            assert at == end
            assert lengths == sorted(lengths)
    for (_, later), (row, _) in zip(outputs, outputs[_LATER:], strict=False):
        assert later == row
    np.testing.assert_array_equal(found, weight)
    np.testing.assert_array_equal(biases, bias)


def _far(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return words[::2], words[1::2].view(np.float32)


def _near(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three words for two; two for the last of an odd number."""
    odd = len(words) % 3 == 2
    assert len(words) % 3 != 1
    pairs = np.append(words, [0] * odd).astype(np.int32).reshape(-1, 3)
    distances = pairs[:, :1].copy().view(np.uint16).reshape(-1)
    values = pairs[:, 1:].copy().view(np.float32).reshape(-1)
    count = len(values) - odd
    return NEAR * distances[:count].astype(np.int64), values[:count]
