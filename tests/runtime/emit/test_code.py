"""Emitted code in an interpreter: AVX-512 and Windows, which this machine need not have."""

from __future__ import annotations

import numpy as np
import pytest
from interpreter import call
from planes_fuzz import TOLERANCE, some_layer
from planes_reference import reference

from secateur.runtime.emit.isa import AVX2, AVX512, Isa
from secateur.runtime.emit.order import Tile
from secateur.runtime.emit.planes import EmittedKernel, Loop, Way, available, emit
from secateur.runtime.planes import Planes

WAYS: list[tuple[Way, Isa]] = [
    (Tile(30, 1, tiles=4), AVX512),
    (Tile(29, 1, columns=300, code=100), AVX512),
    (Tile(7, 3, tiles=2, columns=1000), AVX512),
    (Tile(13, 2, tiles=2, columns=700, ahead=True), AVX512),
    (Loop(12, rows=4, ahead=True), AVX512),
    (Loop(20, columns=900, rows=2), AVX512),
    (Loop(3, columns=300), AVX512),
    (Loop(4, columns=1500, packed=True), AVX512),
    (Tile(6, 2, tiles=2, columns=400), AVX2),
    (Tile(3, 4, columns=500, code=100, ahead=True), AVX2),
    (Tile(2, 6), AVX2),
    (Loop(8, columns=300, rows=3), AVX2),
    (Loop(14), AVX2),
    (Loop(6, columns=900, packed=True, ahead=True), AVX2),
]
FORMS = [
    ("relu", True, True),
    ("none", False, False),
    ("relu6", True, False),
    ("relu", False, True),
]


def name(way: tuple[Way, Isa]) -> str:
    return f"{way[1].name}-{type(way[0]).__name__}-{way[0].rows}-{way[0].vectors}-{way[0].columns}"


def buffers(rng: np.random.Generator, layer: Planes, end: int) -> list[np.ndarray]:
    """x, y and residual without a float to spare, and where x's origin is."""
    low, high = layer.reach
    x = rng.standard_normal(max(0, end + high) - min(0, low)).astype(np.float32)
    y = rng.standard_normal((2, (layer.rows - 1) * layer.out_pitch + end)).astype(np.float32)
    return [x, y[0].copy(), y[1].copy()]


def interpreted(
    layer: Planes, way: Way, isa: Isa, rng: np.random.Generator, windows: bool, rows: tuple | None
) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Run one layer in the interpreter and compare it with float64."""
    code, start = emit(layer, way, isa, windows=windows)
    step = isa.lanes * (1 if isinstance(way, Loop) else way.vectors)
    end = step * int(rng.integers(1, 1 + max(1, 100 // step)))
    x, y, residual = buffers(rng, layer, end)
    origin = max(0, -layer.reach[0])
    given = y.copy()
    first, last = rows or (0, layer.rows)
    arguments = [
        x.ctypes.data + 4 * origin,
        y.ctypes.data,
        residual.ctypes.data if layer.residual else 0,
        *(0, end, first, last),
    ]
    machine = call(code, start, [x, y, residual], arguments, windows)
    places = np.arange(layer.rows)[:, None] * layer.out_pitch + np.arange(end)
    added = residual[places] if layer.residual else None
    right, size = reference(layer, x, origin, 0, end, added)
    error = np.abs(y[places] - right)[first:last]
    assert (error <= TOLERANCE * size[first:last] + 1e-30).all()
    written = np.zeros(len(y), bool)
    written[places[first:last].reshape(-1)] = True
    np.testing.assert_array_equal(y[~written], given[~written])
    assert machine.steps > 10
    return given, [x, y, residual], arguments


@pytest.mark.parametrize("windows", [False, True], ids=["unix", "windows"])
@pytest.mark.parametrize("way", WAYS, ids=name)
def test_code_does_what_float64_says(way: tuple[Way, Isa], windows: bool) -> None:
    rng = np.random.default_rng(windows)
    for form in FORMS[windows::2]:
        layer = some_layer(rng, *form)
        interpreted(layer, *way, rng, windows, None)


@pytest.mark.parametrize("way", WAYS, ids=name)
def test_ranges_of_rows(way: tuple[Way, Isa]) -> None:
    rng = np.random.default_rng(1)
    layer = some_layer(rng, "relu", False, False)
    ends = [*range(0, layer.rows, way[0].rows), layer.rows]
    for first, last in ((ends[0], ends[1]), (ends[-2], ends[-1]), (ends[-1], ends[-1])):
        interpreted(layer, *way, rng, False, (first, last))


@pytest.mark.skipif(AVX2 not in available(), reason="this processor has no AVX2")
@pytest.mark.parametrize("way", [w for w in WAYS if w[1] is AVX2], ids=name)
def test_the_interpreter_agrees_with_the_processor(way: tuple[Way, Isa]) -> None:
    rng = np.random.default_rng(2)
    for form in FORMS[:2]:
        layer = some_layer(rng, *form)
        given, (_x, y, _residual), arguments = interpreted(layer, *way, rng, False, None)
        real = given.copy()
        arguments[1] = real.ctypes.data
        EmittedKernel(layer, *way)(*arguments)
        np.testing.assert_allclose(real, y, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=name)
def test_many_more_layers(way: tuple[Way, Isa]) -> None:
    rng = np.random.default_rng(3)
    for number in range(200):
        layer = some_layer(rng, *FORMS[number % len(FORMS)])
        interpreted(layer, *way, rng, bool(number % 2), None)
