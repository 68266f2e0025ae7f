"""The planes kernel against float64, between forbidden pages, whatever the layer and the tile."""

from __future__ import annotations

import numpy as np
import pytest
from planes_fuzz import TOLERANCE, fuzz
from planes_reference import reference

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.csr import CsrKernel, Tile, source, tiles
from secateur.runtime.planes import ACTIVATIONS, from_linear

KINDS = [  # tile, activation, residual, mask: what code depends on
    (Tile(1), "none", False, False),
    (Tile(2), "gelu", True, False),
    (Tile(3, blocks=2), "relu", True, True),
    (Tile(4), "relu6", False, True),
    (Tile(6, blocks=3), "silu", True, True),
    (Tile(8), "hardswish", False, False),
    (Tile(13), "relu", True, True),
]


def worst(kind: tuple, seed: int, layers: int) -> float:
    return fuzz(
        np.random.default_rng(seed), lambda layer: CsrKernel(layer, kind[0]), kind[1:], layers, 8
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[1]}-{kind[0].vectors}")
def test_small_layers_between_guards(kind: tuple) -> None:
    assert 0 < worst(kind, 1, 12) < 1e-6


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", KINDS[1:4], ids=lambda kind: f"{kind[1]}-{kind[0].vectors}")
def test_vectors_of_four_without_fused_operations(kind: tuple) -> None:
    worst(kind, 2, 6)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_a_wide_linear_in_blocks_adds_into_its_residual(blocks: int) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((5, 300)) * (rng.random((5, 300)) < 0.3)).astype(np.float32)
    layer = from_linear(weight, pitch=48, out_pitch=48, residual=True, activation="relu")
    x = rng.standard_normal((300, 48)).astype(np.float32)
    y = rng.standard_normal((5, 48)).astype(np.float32)
    right, magnitude = reference(layer, x.reshape(-1), 0, 0, 48, y)
    kernel = CsrKernel(layer, Tile(3, blocks))
    kernel(x.ctypes.data, y.ctypes.data, y.ctypes.data, 0, 48, 0, 5)  # in place
    assert (np.abs(y - right) <= TOLERANCE * magnitude).all()


def test_nan_and_infinity_reach_what_reads_them_and_nothing_else() -> None:
    weight = np.array([[1.0, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    layer = from_linear(weight, pitch=8, activation="relu")
    x, y = np.ones((4, 8), np.float32), np.zeros((3, 8), np.float32)
    x[0, 2], x[2], x[1, 3], x[3, 4] = np.nan, np.nan, np.inf, -np.inf
    CsrKernel(layer)(x.ctypes.data, y.ctypes.data, 0, 0, 8, 0, 3)
    expected = np.array([[3.0] * 8, [1.0] * 8, [0.0] * 8])
    expected[0, 2], expected[1, 3], expected[0, 4] = np.nan, np.inf, 0
    np.testing.assert_array_equal(y, expected)


def test_layers_of_one_kind_share_code_and_keep_their_numbers() -> None:
    layers = [from_linear(np.full((2, 2), v, np.float32), pitch=8) for v in (1, 2)]
    kernels = [CsrKernel(layer, Tile(1)) for layer in layers]
    assert kernels[0]._code[0] is kernels[1]._code[0]
    assert kernels[0].bytes < 4096
    x, y = np.ones((2, 8), np.float32), np.zeros((2, 8), np.float32)
    for kernel, right in zip(kernels, (2, 4), strict=True):
        kernel(x.ctypes.data, y.ctypes.data, 0, 0, 8, 0, 2)
        assert (y == right).all()


def test_tiles_fit_the_registers_and_the_positions() -> None:
    layer = from_linear(np.eye(2), pitch=8)
    target = llvm.host()
    assert tiles(layer, positions=2 * target.lanes) == [Tile(2)]
    wide = from_linear(np.ones((1, 2000), np.float32), pitch=1024)
    found = tiles(wide, positions=1000)
    assert len(found) == len(set(found)) <= 6 and any(tile.blocks > 1 for tile in found)
    assert all(tile.vectors <= target.registers - 3 for tile in found)


def test_offsets_beyond_31_bits_are_refused() -> None:
    layer = from_linear(np.eye(2), pitch=2**31)
    with pytest.raises(InputError, match="2\\*\\*31"):
        CsrKernel(layer)


@pytest.mark.parametrize("tile", [Tile(0), Tile(99), Tile(1, 0), Tile(1, 17)])
def test_tiles_that_do_not_fit_are_refused(tile: Tile) -> None:
    with pytest.raises(InputError, match="does not fit this machine"):
        CsrKernel(from_linear(np.eye(2), pitch=8), tile)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("target", "sign"), [(llvm.AVX512, "zmm"), (llvm.AVX2, "ymm"), (llvm.NEON, "fmla\tv")]
)
def test_other_machines_get_whole_vectors(target: llvm.Target, sign: str, activation: str) -> None:
    layer = from_linear(np.eye(2), pitch=8, activation=activation)
    text = llvm.assembly(source(layer, Tile(4), target), target)
    assert sign in text and "callq" not in text and "\tbl\t" not in text
