"""Blocks of columns fit their budget, and segments hold their non-zeros in order."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.runtime.emit.order import Tile, blocks, order
from secateur.runtime.planes import Planes, from_conv, from_linear


@pytest.mark.parametrize("positions", [8, 64])
@pytest.mark.parametrize("budget", [1000, 5000, 10**6])
def test_what_a_block_of_columns_reads_fits(positions: int, budget: int) -> None:
    weight = np.ones((2, 12, 3, 3), np.float32)
    layer = from_conv(weight, pitch=150, row=11, out_pitch=150, padding=(1, 1))
    found = blocks(layer.offsets, positions, budget)
    sizes = []
    for block in range(found.max() + 1):
        read = np.unique(layer.offsets[found == block][:, None] + np.arange(positions))
        sizes.append(4 * len(read))
    assert max(sizes) <= budget + 4 * 2 * positions  # where a block begins all is read anew
    if len(sizes) > 1:
        assert sum(sizes) > budget
    for low, high in zip(range(found.max()), range(1, found.max() + 1), strict=True):
        assert layer.offsets[found == low].max() < layer.offsets[found == high].min()


def test_segments_hold_their_non_zeros_in_order() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((10, 30)) * (rng.random((10, 30)) < 0.5)
    layer = from_linear(weight.astype(np.float32), pitch=16)
    found = order(layer, Tile(4, 1, columns=500), 8)
    assert found.groups == 3
    assert found.blocks == 2
    row = found.segment % 3 * 4 + found.row
    np.testing.assert_array_equal(weight[row, found.offset // 16].astype(np.float32), found.value)
    assert len(found.value) == layer.nnz
    key = found.segment * 10**6 + found.offset * 100 + found.row
    assert (np.diff(key) > 0).all()
    heads = np.flatnonzero(found.first)
    assert heads[0] == 0
    for start, end in zip(heads, [*heads[1:], layer.nnz], strict=True):
        assert len({*found.offset[start:end]}) == 1
        np.testing.assert_array_equal(found.run[start:end], end - start)
        np.testing.assert_array_equal(found.place[start:end], np.arange(end - start))


def test_a_layer_without_non_zeros_has_one_block() -> None:
    layer = from_linear(np.zeros((5, 4), np.float32), pitch=8)
    found = order(layer, Tile(2, 1), 8)
    assert (found.groups, found.blocks, len(found.segment)) == (3, 1, 0)


def test_two_taps_of_a_row_at_one_place_are_in_two_runs() -> None:
    offsets = np.array([0, 4, 4, 4, 9, 4, 9], np.int64)
    layer = Planes(2, np.array([0, 5, 7], np.int64), offsets, np.arange(7, dtype=np.float32))
    found = order(layer, Tile(2, 1), 8)
    assert found.offset.tolist() == [0, 4, 4, 4, 4, 9, 9]
    assert found.row.tolist() == [0, 0, 1, 0, 0, 0, 1]
    assert found.run.tolist() == [1, 2, 2, 1, 1, 2, 2]
    assert found.value.tolist() == [0, 1, 5, 2, 3, 4, 6]
