"""Emitted kernels against float64, between forbidden pages, whatever the layer and the way."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from planes_fuzz import check, fuzz
from planes_reference import reference

from secateur.core.errors import InputError, UnsupportedModel
from secateur.runtime.emit.isa import AVX2, AVX512, Isa
from secateur.runtime.emit.order import Tile
from secateur.runtime.emit.planes import (
    SLACK,
    EmittedKernel,
    Loop,
    Way,
    available,
    emit,
    supports,
    ways,
)
from secateur.runtime.machine import parallel
from secateur.runtime.planes import Planes, from_linear

pytestmark = pytest.mark.skipif(not available(), reason="this processor has no AVX2")
KINDS: list[tuple[Way, str, bool, bool]] = [  # way, activation, residual, mask
    (Loop(8), "relu", True, True),
    (Loop(1, columns=300, rows=4), "none", False, False),
    (Loop(14, columns=4000, rows=1), "relu6", True, False),
    (Loop(3, columns=700, rows=3), "relu", False, True),
    (Loop(8, packed=True), "relu", True, True),
    (Loop(5, columns=1200, rows=2, packed=True), "none", False, False),
    (Loop(6, columns=90, rows=5, packed=True), "none", True, False),  # less than a column
    (Loop(7, columns=2000, packed=True, ahead=True), "relu", True, False),
    (Tile(6, 2), "relu", True, True),
    (Tile(3, 4, tiles=2, columns=2000), "relu6", False, True),
    (Tile(12, 1, columns=400, code=300), "none", True, False),
    (Tile(2, 6, tiles=3, columns=3000, code=500), "relu", False, False),
    (Tile(1, 14, code=200), "relu6", True, True),
    (Tile(2, 5, columns=600, ahead=True), "relu6", True, True),
    (Tile(6, 2, tiles=4, columns=4000, ahead=True), "relu", True, False),
    (Tile(4, 3, columns=900), "none", False, True),
]


def name(kind: tuple) -> str:
    return f"{type(kind[0]).__name__}-{kind[0].rows}-{kind[0].vectors}-{kind[0].columns}-{kind[1]}"


@pytest.mark.parametrize("isa", available(), ids=lambda isa: isa.name)
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_small_layers_between_guards(kind: tuple, isa: Isa) -> None:
    def make(layer: Planes) -> EmittedKernel:
        return EmittedKernel(layer, kind[0], isa)

    assert 0 < fuzz(np.random.default_rng(1), make, kind[1:], 40, 8) < 1e-6


@pytest.mark.parametrize(
    "way", [Loop(8), Loop(5, columns=9000, rows=64), Loop(8, packed=True), Tile(6, 2), Tile(3, 4)]
)
@pytest.mark.parametrize("density", [0, 0.1, 0.5])
def test_a_large_linear(way: Way, density: float) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((70, 300)) * (rng.random((70, 300)) < density)
    layer = from_linear(weight.astype(np.float32), pitch=208, out_pitch=312)
    assert check(rng, layer, EmittedKernel(layer, way, AVX2)) < 1e-6


@pytest.mark.parametrize("way", [Loop(), Loop(packed=True), Tile(3, 2), Tile(1, 3)])
def test_nan_and_infinity_reach_what_reads_them_and_nothing_else(way: Way) -> None:
    weight = np.array([[1.0, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    for activation in ("none", "relu", "relu6"):
        layer = from_linear(weight, pitch=48, activation=activation)
        x, y = np.ones((4, 48), np.float32), np.zeros((3, 48), np.float32)
        x[0, 2], x[2], x[1, 3], x[3, 4] = np.nan, np.nan, np.inf, -np.inf
        EmittedKernel(layer, way, AVX2)(x.ctypes.data, y.ctypes.data, 0, 0, 48, 0, 3)
        x[2] = 0  # which no non-zero reads
        right, _ = reference(layer, x.reshape(-1), 0, 0, 48)
        np.testing.assert_array_equal(y, right.astype(np.float32))
        assert np.isnan(y[0, 2])


@pytest.mark.parametrize("way", [Loop(6, rows=16), Loop(6, rows=24, packed=True), Tile(6, 2)])
def test_ranges_of_rows_and_positions_run_on_threads(way: Way) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 64)) * (rng.random((96, 64)) < 0.2)
    layer = from_linear(weight.astype(np.float32), pitch=96, activation="relu")
    kernel = EmittedKernel(layer, way, AVX2)
    x = rng.standard_normal((64, 96)).astype(np.float32)
    right, size = reference(layer, x.reshape(-1), 0, 0, 96)
    outputs = [np.full((96, 96), 9, np.float32) for _ in range(3)]

    def work(y: np.ndarray) -> None:
        tasks = [
            (x.ctypes.data, y.ctypes.data, 0, p, p + 48, r, r + 48)
            for p in (0, 48)
            for r in (0, 48)
        ]
        parallel(kernel.address, np.array(tasks, np.int64))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers = [threading.Thread(target=work, args=(y,)) for y in outputs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        torch.set_num_threads(threads)
    for y in outputs:
        assert (np.abs(y - right) <= 2e-6 * size).all()


def test_positions_behind_the_mask_are_zeros() -> None:
    layer = from_linear(np.ones((2, 2), np.float32), pitch=300, out_pitch=400)
    layer = type(layer)(**{**vars(layer), "mask": np.full(5, 0xFFFFFFFF, np.uint32)})
    x, y = np.ones(900, np.float32), np.ones((2, 400), np.float32)
    for way in (Loop(), Tile(2, 1)):
        end = (5 + SLACK) // 8 * 8
        EmittedKernel(layer, way, AVX2)(x.ctypes.data, y.ctypes.data, 0, 0, end, 0, 2)
        assert (y[:, :5] == 2).all()
        assert not y[:, 5:end].any()
        with pytest.raises(InputError, match="behind the mask"):
            EmittedKernel(layer, way, AVX2)(x.ctypes.data, y.ctypes.data, 0, 0, end + 8, 0, 2)


def test_what_is_not_emitted_is_refused() -> None:
    layer = from_linear(np.eye(2), pitch=8, activation="gelu")
    assert not supports(layer)
    with pytest.raises(UnsupportedModel, match="gelu"):
        emit(layer, Loop(), AVX2)
    layer = from_linear(np.eye(2), pitch=2**30)
    assert not supports(layer)
    with pytest.raises(UnsupportedModel, match="17"):
        emit(from_linear(np.eye(2), pitch=8), Tile(7, 2), AVX2)
    with pytest.raises(UnsupportedModel, match="17"):
        emit(from_linear(np.eye(2), pitch=8), Loop(15), AVX2)
    for way in (
        Loop(0),
        Loop(columns=0),
        Loop(rows=0),
        Loop(columns=10**6, packed=True),
        Tile(1, 0),
    ):
        with pytest.raises(UnsupportedModel, match="sizes"):
            emit(from_linear(np.eye(2), pitch=8), way, AVX2)


def test_ways_fit_their_instruction_set() -> None:
    for rows in (1, 24, 300, 2048):
        layer = from_linear(np.eye(rows), pitch=8)
        for isa in (AVX2, AVX512):
            for way in ways(layer, isa):
                emit(layer, way, isa)


def test_bytes_for_each_non_zero() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, 1024)) * (rng.random((256, 1024)) < 0.1)
    layer = from_linear(weight.astype(np.float32), pitch=208)
    size = {
        (way, isa): len(emit(layer, way, isa)[0]) / layer.nnz
        for way, isa in (
            (Loop(), AVX2),
            (Tile(6, 2), AVX2),
            (Tile(30, 1), AVX512),
        )
    }
    assert size[Loop(), AVX2] < 11  # 8, and the records' heads
    assert size[Tile(6, 2), AVX2] < 30
    assert size[Tile(30, 1), AVX512] < 17


def test_ways_are_no_wider_than_the_positions() -> None:
    layer = from_linear(np.ones((64, 64), np.float32) * (np.arange(64) % 9 == 0), pitch=256)
    for isa in (AVX2, AVX512):
        for vectors, widths in ((1, {1}), (4, {4, 2}), (9, {9, 5, 3}), (1000, {10, 8, 5, 4})):
            found = [w for w in ways(layer, isa, vectors * isa.lanes) if isinstance(w, Loop)]
            assert len(found) == len(set(found)) and {w.vectors for w in found} <= widths
