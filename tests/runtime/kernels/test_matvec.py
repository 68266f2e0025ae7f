"""Matrix-vector kernels against float64, between forbidden pages, for every format."""

from __future__ import annotations

import numpy as np
import pytest
from guarded import guarded
from planes_reference import act

from secateur.core.errors import InputError
from secateur.runtime.formats import Packed, banked, blocks, sliced
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.matvec import MatVec, source

TOLERANCE = 2e-6  # relative to the sum of magnitudes of a row


def some_matrix(rng: np.random.Generator, kind: str) -> Packed:
    """A matrix of any density for a format; for `sliced`, some rows and columns are empty."""
    rows, columns = (int(n) for n in rng.integers(1, 50, 2))
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    name, _, size = kind.partition(":")
    if name == "banked":
        bank = int(rng.integers(2, 12))
        places = np.arange(columns) % bank
        weight[:, places >= rng.integers(1, bank + 1)] = 0
        for row in range(rows):
            weight[row, columns // bank * bank :] = 1  # whatever the incomplete bank is
        return banked(weight, bank, int(size))
    kept = rng.random(weight.shape) < rng.choice([0, 0.1, 0.5, 1])
    if name == "blocks":
        kept = np.repeat(kept[:: int(size)], int(size), 0)[:rows]
        return blocks(weight * kept, int(size))
    kept[rng.random(rows) < 0.2] = False
    kept[:, rng.random(columns) < 0.2] = False
    return sliced(weight * kept, int(size), "bf16" if size == "16" else "float32")


def check(rng: np.random.Generator, packed: Packed, bias, activation: str, residual: bool) -> None:
    """All samples and rows, in as many calls as ranges, in buffers without a float to spare."""
    rows, columns = packed.shape
    samples = int(rng.integers(1, 4))
    at_end = bool(rng.integers(2))
    x = guarded(samples * columns, at_end=at_end)
    x[:] = rng.standard_normal(len(x))
    y, r = (guarded(samples * rows, at_end=at_end) for _ in range(2))
    r[:] = rng.standard_normal(len(r))
    kernel = MatVec(packed, bias, activation, residual)
    ranges = kernel.ranges(int(rng.integers(1, 4)))
    assert ranges[0][0] == 0 and ranges[-1][1] == kernel.lanes
    for first, last in ranges:
        address = r.ctypes.data if residual else 0
        kernel(x.ctypes.data, y.ctypes.data, address, 0, samples, first, last)
    weight = packed.dense().astype(np.float64)
    x2 = x.reshape(samples, columns).astype(np.float64)
    right = x2 @ weight.T + (0 if bias is None else bias)
    size = np.abs(x2) @ np.abs(weight.T) + (0 if bias is None else np.abs(bias))
    if residual:
        right, size = right + r.reshape(samples, rows), size + np.abs(r.reshape(samples, rows))
    error = np.abs(y.reshape(samples, rows) - act(activation, right))
    assert (error <= TOLERANCE * size + 1e-30).all()


KINDS = ["sliced:8", "sliced:4", "sliced:16", "banked:8", "blocks:16", "blocks:8", "blocks:4"]


def fuzz(kind: str, seed: int, cases: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(cases):
        packed = some_matrix(rng, kind)
        bias = rng.standard_normal(packed.shape[0]).astype(np.float32) if case % 3 else None
        check(rng, packed, bias, "relu" if case % 2 else "none", bool(case % 4 == 1))


@pytest.mark.parametrize("kind", KINDS)
def test_small_matrices_between_guards(kind: str) -> None:
    fuzz(kind, 1, 40)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", ["sliced:4", "sliced:8", "banked:8", "blocks:16"])
def test_vectors_of_four_without_fused_operations(kind: str) -> None:
    fuzz(kind, 2, 12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS)
def test_many_matrices(kind: str, seed: int) -> None:
    fuzz(kind, 100 + seed, 1500)


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


@pytest.mark.parametrize("kind", ["sliced", "banked", "blocks"])
def test_other_machines_get_whole_vectors(kind: str) -> None:
    weight = np.eye(16, dtype=np.float32) + 1
    packed = {"sliced": sliced(weight, 16), "banked": banked(weight, 8, 16)}.get(kind)
    packed = packed or blocks(weight, 16)
    for target, sign in ((llvm.AVX512, "zmm"), (llvm.NEON, "fmla\tv")):
        text = llvm.assembly(source(packed, "relu", True, target), target)
        assert sign in text and "callq" not in text and "\tbl\t" not in text
