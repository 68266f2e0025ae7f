"""Matrix-vector kernels against float64, between forbidden pages, for every format."""

from __future__ import annotations

import numpy as np
import pytest
from matvec_fuzz import KINDS, fuzz

from secateur.core.errors import InputError
from secateur.runtime.formats import Packed, banked, blocks, sliced, windowed
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.matvec import MatVec, source


@pytest.mark.parametrize("kind", KINDS)
def test_small_matrices_between_guards(kind: str) -> None:
    assert 0 < fuzz(np.random.default_rng(1), kind, 40) < 1e-6


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", ["sliced:4", "sliced:8", "banked:8", "blocks:16"])
def test_vectors_of_four_without_fused_operations(kind: str) -> None:
    fuzz(np.random.default_rng(2), kind, 12)


def run(packed: Packed, x: np.ndarray) -> np.ndarray:
    kernel, y = MatVec(packed), np.zeros(packed.shape[0], np.float32)
    kernel(x.ctypes.data, y.ctypes.data, 0, 0, 1, 0, kernel.lanes)
    return y


@pytest.mark.parametrize("kind", ["sliced", "banked"])
def test_infinity_and_nan_reach_only_the_rows_that_read_them(kind: str) -> None:
    # rows of different counts share a group, so that entries are repeated
    weight = np.array([[1, 1, 1, 1], [0, 0, 2, 0], [0, 3, 0, 0], [4, 0, 0, 0]], np.float32)
    pack = {"sliced": lambda w: sliced(w, 4), "banked": lambda w: banked(w, 4, 4)}[kind]
    y = run(pack(weight), np.array([np.nan, np.inf, 1, 1], np.float32))
    np.testing.assert_array_equal(y, [np.nan, 2, np.inf, np.nan])


def test_infinity_and_nan_reach_what_reads_them_in_windows() -> None:
    window = llvm.host().window
    if not window:
        pytest.skip("this machine has no lookups in registers")
    weight = (np.random.default_rng(0).random((32, 8 * window)) < 0.3).astype(np.float32)
    for bad in (np.nan, np.inf):
        x = np.ones(8 * window, np.float32)
        x[5] = bad
        y = run(windowed(weight, window, 16), x)
        assert not np.isfinite(y[weight[:, 5] != 0]).any()  # others may be NaN, as they are densely
        clean = np.isfinite(y)
        np.testing.assert_allclose(y[clean], weight.sum(1)[clean], rtol=1e-6)


def test_windows_of_another_machine_are_refused() -> None:
    packed = windowed(np.ones((16, 128), np.float32), 16)
    assert "vperm" in llvm.assembly(source(packed, "none", False, llvm.AVX512), llvm.AVX512)
    for target in (llvm.AVX2, llvm.NEON):
        with pytest.raises(InputError, match="windows of 16"):
            source(packed, "none", False, target)


def test_the_work_is_split_evenly() -> None:
    rng = np.random.default_rng(0)
    weight = (rng.random((256, 64)) < np.linspace(0, 1, 256)[:, None]).astype(np.float32)
    kernel = MatVec(sliced(weight))
    starts = kernel.packed.starts
    ranges = kernel.ranges(2)
    work = [int(starts[b // 8] - starts[a // 8]) for a, b in ranges]
    assert len(work) == 2 and max(work) < 1.15 * min(work)
    assert len(kernel.ranges(1000)) == len(starts) - 1


def test_columns_beyond_16_bits() -> None:
    weight = np.zeros((3, 70_000), np.float32)
    weight[1, 69_999] = 2
    x = np.ones(70_000, np.float32)
    assert run(sliced(weight), x).tolist() == [0, 2, 0]
    assert run(blocks(weight, 4), x).tolist() == [0, 2, 0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="1 biases for 2 rows"):
        MatVec(sliced(np.eye(2, dtype=np.float32)), np.zeros(1, np.float32))
    with pytest.raises(InputError, match="groups of 12 rows"):
        source(sliced(np.eye(12, dtype=np.float32), 12), "none", False, llvm.AVX2)


@pytest.mark.parametrize(
    ("target", "bank", "sign"),
    [
        (llvm.AVX2, 8, "vpermd"), (llvm.AVX2, 16, "vblendvps"), (llvm.AVX512, 16, "vpermd"),
        (llvm.AVX512, 32, "vpermi2ps"), (llvm.AVX512, 64, "vpermi2ps"), (llvm.NEON, 32, "fmla"),
    ],
)  # fmt: skip
def test_whole_banks_are_looked_up_in_registers(target: llvm.Target, bank: int, sign: str) -> None:
    weight = np.zeros((16, 2 * bank), np.float32)
    weight[:, ::4] = 1
    text = llvm.assembly(source(banked(weight, bank), "none", False, target), target)
    assert sign in text or sign.replace("vpermi2ps", "vpermt2ps") in text
    odd = np.concatenate([weight, weight[:, :5]], 1)  # the last bank is not whole
    assert "vperm" not in llvm.assembly(source(banked(odd, bank), "none", False, target), target)


def test_banks_of_four_registers_are_loaded_singly_by_avx2() -> None:
    weight = np.ones((16, 64), np.float32) * (np.arange(64) % 4 == 0)
    text = llvm.assembly(source(banked(weight, 32), "none", False, llvm.AVX2), llvm.AVX2)
    assert "vperm" not in text


@pytest.mark.parametrize("kind", ["sliced", "banked", "blocks"])
def test_other_machines_get_whole_vectors(kind: str) -> None:
    weight = np.eye(16, dtype=np.float32) + 1
    packed = {"sliced": sliced(weight, 16), "banked": banked(weight, 8, 16)}.get(kind)
    packed = packed or blocks(weight, 16)
    for target, sign in ((llvm.AVX512, "zmm"), (llvm.NEON, "fmla\tv")):
        text = llvm.assembly(source(packed, "relu", True, target), target)
        assert sign in text and "callq" not in text and "\tbl\t" not in text
