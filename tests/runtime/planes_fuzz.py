"""Random layers, and runs of a kernel in buffers between forbidden pages, against float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from guarded import guarded
from planes_reference import reference

from secateur.runtime.planes import Kernel, Planes, from_conv

TOLERANCE = 2e-6  # relative to the sum of magnitudes that a position adds up


def some_layer(rng: np.random.Generator, activation: str, residual: bool, masked: bool) -> Planes:
    """A small convolution of any density, some rows and columns empty, whatever its geometry."""
    out, inside, height, width = rng.integers(1, [rng.choice([12, 40]), 9, 7, 7])
    kernel, groups = rng.choice([1, 1, 2, 3], 2), int(rng.integers(1, 3))
    stride, padding, dilation = (rng.integers(low, low + 2, 2).tolist() for low in (1, 0, 1))
    weight = rng.standard_normal((out * groups, inside, *kernel)).astype(np.float32)
    weight *= rng.random(weight.shape) < rng.choice([0, 0.05, 0.1, 0.3, 0.6, 1])
    weight[rng.random(len(weight)) < 0.2] = 0
    weight[:, rng.random(inside) < 0.2] = 0
    row = int(width + rng.integers(1, 3))
    return from_conv(
        weight,
        pitch=int((height + 2) * row + rng.integers(0, 20)),
        row=row,
        out_pitch=int(height * row + rng.integers(300, 320)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=rng.standard_normal(len(weight)).astype(np.float32) if rng.random() < 0.7 else None,
        activation=activation,
        residual=residual,
        size=(int(height), int(width)) if masked else None,
    )


def fuzz(
    rng: np.random.Generator,
    make: Callable[[Planes], Kernel],
    form: tuple[str, bool, bool],
    layers: int,
    runs: int,
) -> float:
    """The worst error of some layers; make: the kernel; form: activation, residual, mask."""
    worst = 0.0
    for _ in range(layers):
        layer = some_layer(rng, *form)
        kernel = make(layer)
        for _ in range(runs):
            worst = max(worst, check(rng, layer, kernel))
    return worst


def check(rng: np.random.Generator, layer: Planes, kernel: Kernel) -> float:
    """One run over some positions and rows, in buffers without a float to spare: the worst error.

    Sometimes the residual is the output's own buffer.
    """
    low, high = layer.reach
    begin = int(rng.integers(0, 3)) * kernel.step
    end = begin + int(rng.integers(0, 1 + 300 // kernel.step)) * kernel.step
    most = 300 if layer.mask is None else min(300, len(layer.mask) + 256)
    end = min(end, most // kernel.step * kernel.step)
    begin = min(begin, end)
    ends = [*range(0, layer.rows, kernel.block), layer.rows]
    first, last = sorted(rng.choice(ends, 2).tolist())
    at_end = bool(rng.integers(2))
    first_read, last_read = min(0, begin + low), max(0, end + high)
    x = guarded(last_read - first_read, at_end=at_end)
    x[:] = rng.standard_normal(len(x))
    size = (layer.rows - 1) * layer.out_pitch + end
    y, before = guarded(size, at_end=at_end), rng.standard_normal(size).astype(np.float32)
    y[:] = before
    residual = y
    if rng.integers(2):
        residual = guarded(size, at_end=at_end)
        residual[:] = rng.standard_normal(size)
    places = np.arange(layer.rows)[:, None] * layer.out_pitch + np.arange(begin, end)
    added = residual[places] if layer.residual else None
    kernel(
        x.ctypes.data - 4 * first_read,
        y.ctypes.data,
        residual.ctypes.data if layer.residual else 0,
        *(begin, end, first, last),
    )
    right, magnitude = reference(layer, x, -first_read, begin, end, added)
    error = np.abs(y[places] - right)[first:last]
    assert (error <= TOLERANCE * magnitude[first:last] + 1e-30).all()
    untouched = np.ones(size, bool)
    untouched[places[first:last].reshape(-1)] = False
    np.testing.assert_array_equal(y[untouched], before[untouched])
    return float((error / (magnitude[first:last] + 1e-30)).max(initial=0))
