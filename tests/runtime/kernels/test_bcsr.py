"""The planes kernel over blocks of rows, against float64 and between forbidden pages."""

from __future__ import annotations

import numpy as np
import pytest
from planes_fuzz import TOLERANCE, fuzz
from planes_reference import reference

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.bcsr import BcsrKernel, Tile, source, tiles
from secateur.runtime.planes import ACTIVATIONS, Planes, from_linear

KINDS = [  # tile, activation, residual, mask: what code depends on
    (Tile(1, 1), "none", False, False),
    (Tile(4, 3), "relu", False, True),
    (Tile(6, 2), "gelu", True, True),
    (Tile(5, 1), "relu6", True, False),
    (Tile(2, 4), "hardswish", True, True),
    (Tile(3, 3), "silu", False, False),
]


def linear(out: int, inside: int, density: float, **others: object) -> Planes:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((out, inside)) * (rng.random((out, inside)) < density)
    return from_linear(weight.astype(np.float32), pitch=48, out_pitch=48, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[1]}-{kind[0].rows}")
def test_small_layers_between_guards(kind: tuple) -> None:
    rng = np.random.default_rng(1)
    assert 0 < fuzz(rng, lambda layer: BcsrKernel(layer, kind[0]), kind[1:], 12, 8) < 1e-6


@pytest.mark.usefixtures("narrow")
def test_vectors_of_four_without_fused_operations() -> None:
    rng = np.random.default_rng(2)
    assert fuzz(rng, lambda layer: BcsrKernel(layer, Tile(3, 2)), KINDS[2][1:], 6, 8) > 0


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("out", [1, 4, 5, 7, 8])
def test_rows_that_fill_no_block_are_written_once_and_add_a_residual_in_place(
    out: int, activation: str
) -> None:
    layer = linear(out, 30, 1, residual=True, activation=activation)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, 48)).astype(np.float32) for n in (30, out + 1))
    right, magnitude = reference(layer, x.reshape(-1), 0, 0, 48, y[:out])
    behind = y[out].copy()
    BcsrKernel(layer, Tile(4, 2))(x.ctypes.data, y.ctypes.data, y.ctypes.data, 0, 48, 0, out)
    assert (np.abs(y[:out] - right) <= TOLERANCE * magnitude).all()
    np.testing.assert_array_equal(y[out], behind)


def test_weights_that_are_not_there_multiply_with_zero_as_in_torch() -> None:
    weight = np.array([[1.0, 0], [0, 1], [0, 0]], np.float32)
    layer = from_linear(weight, pitch=16)
    x, y = np.ones((2, 16), np.float32), np.zeros((3, 16), np.float32)
    x[0, 2] = np.nan
    BcsrKernel(layer, Tile(2, 1))(x.ctypes.data, y.ctypes.data, 0, 0, 16, 0, 3)
    expected = np.array([[1.0] * 16, [1.0] * 16, [0.0] * 16])
    expected[:2, 2] = np.nan  # the third row is a block of its own, without a column
    np.testing.assert_array_equal(y, expected)


def test_two_weights_of_a_row_at_one_offset_both_count() -> None:
    layer = Planes(
        1, np.array([0, 2]), np.array([3, 3]), np.array([1, 2], np.float32), out_pitch=16, columns=2
    )
    x, y = np.ones(32, np.float32), np.zeros(16, np.float32)
    BcsrKernel(layer, Tile(2, 1))(x.ctypes.data, y.ctypes.data, 0, 0, 16, 0, 1)
    assert (y == 3).all()


def test_blocks_are_offered_where_they_are_not_mostly_zeros() -> None:
    assert tiles(linear(48, 40, 1)) and tiles(linear(48, 40, 0.9))
    assert not tiles(linear(48, 40, 0.3)) and not tiles(linear(48, 40, 0))
    weight = np.zeros((48, 40), np.float32)
    weight[:, ::10] = 1  # whole columns
    assert tiles(from_linear(weight, pitch=48))
    assert all(tile.fits for tile in tiles(linear(48, 40, 1)))


def test_offsets_beyond_31_bits_are_refused() -> None:
    with pytest.raises(InputError, match="2\\*\\*31"):
        BcsrKernel(from_linear(np.eye(2), pitch=2**31), Tile(1, 1))


@pytest.mark.parametrize("tile", [Tile(0, 1), Tile(1, 0), Tile(99, 1), Tile(1, 99)])
def test_tiles_that_do_not_fit_are_refused(tile: Tile) -> None:
    with pytest.raises(InputError, match="does not fit this machine"):
        BcsrKernel(linear(4, 4, 1), tile)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("target", "sign"), [(llvm.AVX512, "zmm"), (llvm.AVX2, "ymm"), (llvm.NEON, "fmla\tv")]
)
def test_other_machines_get_whole_vectors(target: llvm.Target, sign: str, activation: str) -> None:
    layer = linear(4, 4, 1, activation=activation)
    text = llvm.assembly(source(layer, Tile(4, 3), target), target)
    assert sign in text and "callq" not in text and "\tbl\t" not in text
