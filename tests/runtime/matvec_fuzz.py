"""Random matrices through matrix-vector kernels in buffers between forbidden pages."""

from __future__ import annotations

import numpy as np
from guarded import guarded
from planes_reference import act

from secateur.runtime.formats import Packed, banked, blocks, sliced, windowed
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.matvec import MatVec

TOLERANCE = 2e-6  # relative to the sum of magnitudes of a row
KINDS = [  # format, rows in a group, storage
    *("sliced:4", "sliced:8", "sliced:16", "sliced:16:bf16", "sliced:32"),
    *("banked:8", "banked:16", "banked:32", "blocks:4", "blocks:8", "blocks:16"),
    *("windowed:16", "windowed:32", "windowed:16:bf16"),
]


def some_matrix(rng: np.random.Generator, kind: str) -> Packed:
    """A matrix of any density for a format; for `sliced`, some rows and columns are empty."""
    rows, columns = (int(n) for n in rng.integers(1, 50, 2))
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    name, size, *storage = kind.split(":")
    if name == "banked":
        bank = int(rng.integers(2, 12))
        if rng.integers(2):  # whole banks of registers
            bank = int(rng.choice([8, 16, 32, 64]))
            columns = bank * int(rng.integers(1, 5))
            weight = rng.standard_normal((rows, columns)).astype(np.float32)
        places = rng.permutation(bank)[np.arange(columns) % bank]
        weight[:, places >= rng.integers(1, bank + 1)] = 0
        for row in range(rows):
            weight[row, columns // bank * bank :] = 1  # whatever the incomplete bank is
        return banked(weight, bank, int(size))
    kept = rng.random(weight.shape) < rng.choice([0, 0.1, 0.5, 1])
    if name == "blocks":
        kept = np.repeat(kept[:: int(size)], int(size), 0)[:rows]
        return blocks(weight * kept, int(size))
    if name == "windowed":
        columns = llvm.host().window * 8 * int(rng.integers(1, 4)) + int(rng.integers(0, 40))
        weight = rng.standard_normal((rows, columns)).astype(np.float32)
        kept = rng.random(weight.shape) < rng.choice([0.3, 0.4, 0.6, 1])
        kept[rng.permutation(rows)[: rows // 5]] = False
        return windowed(weight * kept, llvm.host().window, int(size), *storage)
    kept[rng.random(rows) < 0.2] = False
    kept[:, rng.random(columns) < 0.2] = False
    return sliced(weight * kept, int(size), *storage)


def check(
    rng: np.random.Generator,
    packed: Packed,
    bias: np.ndarray | None,
    activation: str,
    residual: bool,
) -> float:
    """All samples and rows, in some calls, in buffers without a float to spare: the worst error."""
    rows, columns = packed.shape
    samples = int(rng.integers(1, 4))
    at_end = bool(rng.integers(2))
    x = guarded(samples * columns, at_end=at_end)
    x[:] = rng.standard_normal(len(x))
    y, r = (guarded(samples * rows, at_end=at_end) for _ in range(2))
    y[:] = np.nan
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
    return float((error / (size + 1e-30)).max())


def fuzz(rng: np.random.Generator, kind: str, cases: int) -> float:
    """The worst error of some matrices."""
    worst = 0.0
    for case in range(cases):
        packed = some_matrix(rng, kind)
        bias = rng.standard_normal(packed.shape[0]).astype(np.float32) if case % 3 else None
        activation, residual = ("relu" if case % 2 else "none"), case % 4 == 1
        worst = max(worst, check(rng, packed, bias, activation, residual))
    return worst
