"""Random depthwise convolutions in buffers between forbidden pages, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from guarded import guarded
from planes_reference import act

from secateur.runtime.kernels.depthwise import BEHIND, Depthwise, DepthwiseKernel, supports

TOLERANCE = 2e-6  # relative to the sum of magnitudes that a position adds up


def some_kind(rng: np.random.Generator, activation: str, residual: bool) -> Depthwise:
    """Window, stride, padding: what code depends on."""
    kh, kw = rng.choice([1, 2, 3, 3, 3, 5, 7], 2)
    stride, dilation = rng.integers(1, 3, 2).tolist(), rng.choice([1, 1, 2, 3], 2).tolist()
    spans = [(k - 1) * d for k, d in zip((kh, kw), dilation, strict=True)]
    padding = [int(rng.integers(0, span + 1)) for span in spans]
    stride[0] = int(rng.integers(1, 4))
    return Depthwise(
        np.zeros((1, kh, kw), np.float32), 0, 0, 0, 0, (1, 1), tuple(stride), tuple(padding),
        tuple(dilation), int(rng.choice([1, 1, 2, 3])), None, activation, residual,
    )  # fmt: skip


def sized(rng: np.random.Generator, kind: Depthwise) -> Depthwise:
    """The same with weights, for images of some size that a kernel can have."""
    while True:
        high, wide = (int(n) for n in rng.integers(1, [9, rng.choice([9, 40])]))
        out = int(rng.integers(1, 5)) * kind.each
        weight = rng.standard_normal((out, *kind.weight.shape[1:])).astype(np.float32)
        weight *= rng.random(weight.shape) < rng.choice([0.3, 1])
        row = int(kind.stride[1] * wide + (weight.shape[2] - 1) * kind.dilation[1])
        layer = replace(
            kind, weight=weight, row=row + int(rng.integers(0, 3)),
            pitch=int(row * (kind.stride[0] * high + 20) + rng.integers(0, 9)),
            out_row=wide + int(rng.integers(0, 3)), size=(high, wide),
            bias=rng.standard_normal(out).astype(np.float32) if rng.random() < 0.7 else None,
        )  # fmt: skip
        layer = replace(layer, out_pitch=high * layer.out_row + int(rng.integers(0, 9)))
        if supports(layer):
            return layer


def check(rng: np.random.Generator, layer: Depthwise, kernel: DepthwiseKernel) -> float:
    """One run over some rows and planes, in buffers without a float to spare: the worst error."""
    high, wide = layer.size
    top, bottom = sorted(rng.integers(0, high + 1, 2).tolist())
    first, last = sorted(rng.integers(0, len(layer.weight) + 1, 2).tolist())
    rows, columns = np.arange(top, bottom), np.arange(wide)
    _, kh, kw = layer.weight.shape
    lines = rows[:, None] * layer.stride[0] + np.arange(kh) * layer.dilation[0] - layer.padding[0]
    across = columns[:, None] * layer.stride[1] + np.arange(kw) * layer.dilation[1]
    across -= layer.padding[1]
    planes = np.arange(first, last)
    reads = (
        (planes // layer.each * layer.pitch)[:, None, None, None, None]
        + lines[None, :, None, :, None] * layer.row + across[None, None, :, None, :]
    )  # fmt: skip
    at_end = bool(rng.integers(2))
    before, behind = int(reads.min(initial=0)), int(reads.max(initial=0)) + BEHIND + 1
    x = guarded(behind - before, at_end=at_end)
    x[:] = rng.standard_normal(len(x))
    writes = planes[:, None, None] * layer.out_pitch + rows[:, None] * layer.out_row + columns
    size = max(0, len(layer.weight) - 1) * layer.out_pitch + high * layer.out_row
    y, residual = (guarded(size, at_end=at_end) for _ in range(2))
    y[:], residual[:] = rng.standard_normal((2, size))
    if rng.integers(2):
        residual = y
    old, added = y.copy(), residual.copy()
    kernel(
        x.ctypes.data - 4 * before, y.ctypes.data, residual.ctypes.data * layer.residual,
        top * layer.out_row, bottom * layer.out_row, first, last,
    )  # fmt: skip
    weight = layer.weight[first:last].astype(np.float64)
    read = x[reads - before].astype(np.float64)
    right = np.einsum("crjyx,cyx->crj", read, weight)
    magnitude = np.einsum("crjyx,cyx->crj", np.abs(read), np.abs(weight))
    bias = None if layer.bias is None else layer.bias[first:last, None, None].astype(np.float64)
    for term in (bias, added[writes].astype(np.float64) if layer.residual else None):
        if term is not None:
            right, magnitude = right + term, magnitude + np.abs(term)
    error = np.abs(y[writes] - act(layer.activation, right))
    assert (error <= TOLERANCE * magnitude + 1e-30).all()
    other = np.ones(size, bool)
    other[writes.reshape(-1)] = False
    border = np.zeros(size, bool)
    gap = np.arange(wide, layer.out_row)
    at = planes[:, None, None] * layer.out_pitch + rows[:, None] * layer.out_row + gap
    border[at.reshape(-1)] = True
    same = y == old
    assert same[other & ~border].all() and (same | (y == 0))[other].all()
    return float((error / (magnitude + 1e-30)).max(initial=0))


def fuzz(
    rng: np.random.Generator, activation: str, residual: bool, layers: int, runs: int
) -> float:
    """The worst error of some layers of one kind."""
    kind, rows, worst = some_kind(rng, activation, residual), int(rng.integers(1, 9)), 0.0
    for _ in range(layers):
        layer = sized(rng, kind)
        kernel = DepthwiseKernel(layer, rows)
        for _ in range(runs):
            worst = max(worst, check(rng, layer, kernel))
    return worst
