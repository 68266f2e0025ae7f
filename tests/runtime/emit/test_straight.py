"""Straight lines multiply once for each non-zero and vector, and load shared inputs once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from secateur.runtime.emit.isa import AVX2, AVX512, Isa
from secateur.runtime.emit.order import Tile
from secateur.runtime.emit.straight import emit, registers
from secateur.runtime.planes import Planes, from_linear


def mnemonics(layer: Planes, tile: Tile, isa: Isa) -> Counter[tuple[str, bool]]:
    capstone = pytest.importorskip("capstone", reason="decoding needs capstone")
    code = emit(layer, tile, isa, b"", False)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.skipdata = True
    found = Counter()
    for instruction in decoder.disasm(code, 0):
        found[instruction.mnemonic, "[" in instruction.op_str] += 1
    return found


def layer(density: float = 0.3, rows: int = 6, columns: int = 200) -> Planes:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
    return from_linear(weight.astype(np.float32), pitch=208)


@pytest.mark.parametrize("tile", [Tile(6, 2), Tile(3, 4), Tile(1, 14), Tile(12, 1)])
def test_instructions_for_each_non_zero(tile: Tile) -> None:
    made, found = layer(), mnemonics(layer(), tile, AVX2)
    fused = found["vfmadd231ps", True] + found["vfmadd231ps", False]
    assert fused == made.nnz * tile.vectors


def test_shared_inputs_are_loaded_once() -> None:
    made = layer()
    found = mnemonics(made, Tile(6, 2, columns=10**6), AVX2)
    offsets, times = np.unique(made.offsets, return_counts=True)
    assert found["vfmadd231ps", True] == 2 * (times == 1).sum()  # straight from memory
    loads = found["vmovups", True] - 6 * 2  # the others are the stores of the sums
    assert loads == 2 * (times > 1).sum()
    wide = mnemonics(made, Tile(30, 1, columns=10**6), AVX512)
    assert wide["vmovups", True] - 6 == len(offsets)


@pytest.mark.parametrize(("tile", "isa"), [(Tile(4, 2), AVX2), (Tile(4, 1), AVX512)])
def test_what_the_next_positions_need_is_asked_for_once(tile: Tile, isa: Isa) -> None:
    made = layer(0.1, rows=6)
    found = mnemonics(made, replace(tile, columns=10**6, ahead=True), isa)
    first = made.offsets[: made.indptr[4]]  # of the first group of rows
    lines = -(-tile.vectors * isa.lanes // 16)
    assert found["prefetcht1", True] == lines * len(np.unique(first))
    assert found["prefetchw", True] == lines * made.rows
    assert not mnemonics(made, tile, isa)["prefetcht1", True]


@pytest.mark.parametrize(
    ("tile", "isa", "count"),
    [
        (Tile(6, 2), AVX2, 15),
        (Tile(3, 4), AVX2, 16),
        (Tile(1, 14), AVX2, 16),
        (Tile(30, 1), AVX512, 32),
    ],
)
def test_registers_that_a_tile_takes(tile: Tile, isa: Isa, count: int) -> None:
    assert registers(tile, isa) == count
