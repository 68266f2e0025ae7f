"""Looping kernels: code is shared, and tiles are about equally wide."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.runtime.emit.isa import AVX2, AVX512
from secateur.runtime.emit.loop import emit, loops, pack
from secateur.runtime.planes import from_linear


def test_layers_of_one_kind_differ_in_data_only() -> None:
    layers = [from_linear(np.full((3, 4), v, np.float32), pitch=8) for v in (1, 2)]
    before = loops.cache_info()
    first, second = (emit(layer, AVX2, 4, 10**6, 3, False, False, b"", False) for layer in layers)
    assert loops.cache_info().misses - before.misses <= 1
    start, code = first[1], loops(AVX2, 4, (3,), "none", False, False, False, False)
    assert first[1] == second[1]
    assert first[0][:start] == second[0][:start]
    assert first[0][start : len(code)] == second[0][start : len(code)] == code[start:]
    assert first[0] != second[0]


@pytest.mark.parametrize(("blocks", "kinds"), [(1, (3,)), (2, (1, 2)), (5, (1, 0, 2))])
def test_blocks_of_columns_have_code_of_their_kinds(blocks: int, kinds: tuple[int, ...]) -> None:
    layer = from_linear(np.ones((2, 40), np.float32), pitch=64)
    whole = emit(layer, AVX512, 4, 40 * 256 // blocks, 2, False, False, b"", False)[0]
    code = loops(AVX512, 4, kinds, "none", False, False, False, False)
    assert code[64:] in whole


@pytest.mark.parametrize("budget", [300, 2000, 10**6])
def test_packed_columns_are_those_that_are_read(budget: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((9, 30)) * (rng.random((9, 30)) < 0.1)
    layer = from_linear(weight.astype(np.float32), pitch=64)
    packed, block, lists = pack(layer, 16, budget)
    column, rest = np.divmod(packed.offsets, 16)
    assert not rest.any()
    np.testing.assert_array_equal(lists[block, 1 + column], 4 * layer.offsets)
    assert lists[:, 0].sum() == len(np.unique(layer.offsets))
    assert (64 * (lists[:, 0] - 1) <= budget).all()
