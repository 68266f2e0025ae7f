"""Packed matrices hold the matrix: the same numbers, each once, whatever its rows look like."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secateur.core.errors import InputError
from secateur.runtime.formats import Packed, banked, blocks, fitting, sliced, windowed
from secateur.units.weight import NM, Block, Weight


def random(rows: int, columns: int, density: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)
    return weight.astype(np.float32)


def split(packed: Packed) -> np.ndarray:
    """The matrix, summing every entry of every lane, once for each row that repeats."""
    out = np.zeros(packed.shape)
    for g in range(packed.groups):
        for lane in range(packed.lanes):
            row = packed.order[g * packed.lanes + lane]
            line = np.zeros(packed.shape[1])
            for i, step in enumerate(range(packed.starts[g], packed.starts[g + 1])):
                column = (
                    packed.indices[step] if packed.kind == "blocks" else packed.indices[step, lane]
                )
                shift = i // packed.each * packed.bank if packed.kind == "banked" else 0
                line[column + shift] += packed.values[step, lane]
            out[row] = line
    return out


@pytest.mark.parametrize("density", [0, 0.02, 0.3, 1])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (16, 33), (40, 20)])
@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_rows_of_any_counts(shape: tuple[int, int], density: float, lanes: int) -> None:
    weight = random(*shape, density)
    packed = sliced(weight, lanes)
    np.testing.assert_allclose(split(packed), weight, rtol=3e-7)
    np.testing.assert_allclose(packed.dense(), weight, rtol=3e-7)
    assert np.array_equal(packed.dense() != 0, weight != 0)
    assert sorted(set(packed.order.tolist())) == list(range(shape[0]))
    assert len(packed.order) < shape[0] + 2 * lanes


def test_rows_of_like_counts_share_groups() -> None:
    weight = random(512, 256, 0.1)
    assert sliced(weight).values.size < 1.05 * np.count_nonzero(weight)


@pytest.mark.parametrize(("shape", "bank"), [((9, 32), 8), ((8, 30), 8), ((3, 7), 4)])
def test_banks_of_equal_counts(shape: tuple[int, int], bank: int) -> None:
    weight = torch.from_numpy(random(*shape, 1))
    kept = Weight(per=bank).pattern.choose(weight.abs(), 0.25)
    weight = (weight * kept).numpy()
    packed = banked(weight, bank)
    np.testing.assert_allclose(split(packed), weight, rtol=3e-7)
    np.testing.assert_allclose(packed.dense(), weight, rtol=3e-7)
    assert packed.each == bank // 4 and packed.indices.max() < bank


def test_a_bank_without_entries_is_refused() -> None:
    with pytest.raises(InputError, match="a bank of 4 columns of a row has no non-zero"):
        banked(np.array([[1, 0, 0, 0, 0, 0, 0, 0]], np.float32), 4)
    with pytest.raises(InputError, match="a bank has 257 columns"):
        banked(np.ones((1, 300), np.float32), 257)


@pytest.mark.parametrize("window", [8, 16])
@pytest.mark.parametrize(("density", "each"), [(0.1, 1), (0.3, 2), (1, 8)])
def test_windows_and_what_they_leave(window: int, density: float, each: int) -> None:
    weight = random(37, 8 * window + 11, density)
    packed = windowed(weight, window, lanes=16)
    assert packed.each >= each and packed.rest is not None
    assert packed.rest.starts.shape == packed.starts.shape
    found = packed.rest.dense().astype(float)
    np.testing.assert_allclose(found[:, 8 * window :], weight[:, 8 * window :], rtol=3e-7)
    for row in range(37):  # the first lane that is this row
        group, lane = divmod(packed.order.tolist().index(row), 16)
        for step in range(8 * packed.each):
            at = packed.starts[group] + step
            word = int(packed.indices[at // 8, lane]) >> (window.bit_length() - 1) * (step % 8)
            found[row, step // packed.each * window + word % window] += packed.values[at, lane]
    np.testing.assert_allclose(found, weight, rtol=3e-7)
    np.testing.assert_array_equal(packed.dense() != 0, weight != 0)
    np.testing.assert_allclose(packed.dense(), weight, rtol=3e-7)
    assert packed.nbytes > packed.rest.nbytes + packed.values.nbytes


def test_windows_that_do_not_pay_are_refused() -> None:
    with pytest.raises(InputError, match="no window has enough non-zeros"):
        windowed(random(32, 64, 0.03), 8)
    with pytest.raises(InputError, match="no window has enough non-zeros"):
        windowed(random(32, 63, 0.5), 8)  # fewer than eight windows
    with pytest.raises(InputError, match="a window has 0 columns"):
        windowed(random(32, 64, 0.5), 0)
    kinds = [(p.kind, p.lanes) for p in fitting(random(32, 64, 0.3), window=8)]
    assert kinds == [("windowed", 16), ("sliced", 8)]


@pytest.mark.parametrize("rows", [4, 8, 16])
@pytest.mark.parametrize("out", [16, 21])
def test_blocks_of_rows(rows: int, out: int) -> None:
    weight = torch.from_numpy(random(out, 24, 1))
    weight = (weight * Block(rows, 1).pattern.choose(weight.abs(), 0.3)).numpy()
    packed = blocks(weight, rows)
    np.testing.assert_array_equal(split(packed), weight)
    np.testing.assert_array_equal(packed.dense(), weight)


def test_the_formats_that_fit_are_found() -> None:
    weight = torch.from_numpy(random(32, 64, 1))
    patterns = {
        "none": Weight().pattern.choose(weight.abs(), 0.2),
        "2:4": NM(2, 4).pattern.choose(weight.abs(), 0.5),
        "bank": Weight(per=32).pattern.choose(weight.abs(), 0.125),
        "8x1": Block(8, 1).pattern.choose(weight.abs(), 0.2),
    }
    found = {
        name: [(p.kind, p.bank or p.lanes) for p in fitting((weight * kept).numpy())]
        for name, kept in patterns.items()
    }
    assert found["none"] == [("sliced", 8)]
    assert found["2:4"] == [("banked", 32), ("sliced", 8)]  # what registers hold, if it fits
    assert found["bank"] == [("banked", 32), ("sliced", 8)]
    for window in (8, 16):
        first = fitting((weight * patterns["2:4"]).numpy(), window=window)[0]
        assert (first.kind, first.bank) == ("banked", window)
    assert found["8x1"] == [("blocks", 8), ("blocks", 4), ("sliced", 8)]


def test_bytes_of_a_large_matrix() -> None:
    weight = random(512, 512, 0.1)
    dense = weight.nbytes
    assert sliced(weight).nbytes < 0.17 * dense
    assert sliced(weight, storage="bf16").nbytes < 0.12 * dense


def test_bf16_is_rounded_as_torch_rounds() -> None:
    weight = np.array([[1 / 3, -1e30, 1.00390625, 1.01171875, np.nan, np.inf]], np.float32)
    packed = sliced(weight, 1, "bf16")
    right = torch.from_numpy(weight).bfloat16().float().numpy()
    np.testing.assert_array_equal(packed.dense(), right)
    with pytest.raises(InputError, match="storage 'int4'"):
        sliced(weight, 1, "int4")
