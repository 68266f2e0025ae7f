"""What kernels do with their sums: here there are none, so bias and residual alone come out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planes_reference import act

from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function
from secateur.runtime.kernels.outputs import Writer, outputs
from secateur.runtime.planes import ACTIVATIONS, Planes, from_linear


class Nothing(BoundKernel):
    """The kernel of a layer without non-zeros; an array and a number of its own are not used."""

    def __init__(self, layer: Planes, vectors: int) -> None:
        target = llvm.host()
        bias, mask, numbers = outputs(layer, target.lanes)
        f = Function("nothing", [CONTEXT, *ARGUMENTS], lanes=target.lanes, fused=target.fused)
        writer = Writer(f, layer, arrays=1)
        own = f.read(writer.array(0)), writer.number(0)  # both are 7
        both = f.value(f"select i1 {f.integer('icmp eq', *own)}, i64 1, i64 0")
        with (
            f.loop("%begin", "%end", vectors * f.lanes) as at,
            f.loop("%first", f.integer("mul", "%last", both)) as row,
        ):
            here = f.integer("add", f.integer("mul", row.index, writer.pitch), at.index)
            sums = writer.start(row.index, here, vectors)
            writer.finish(at.index, writer.along(f.at("%y", here), vectors), sums)
        arrays = (bias, mask, np.array([7], np.int64))
        super().__init__("nothing", f.text(), "nothing", arrays, (*numbers, 7))


def layer(activation: str, residual: bool, masked: bool) -> Planes:
    bias = np.array([-0.5, 2], np.float32)
    found = from_linear(
        np.zeros((2, 1), np.float32), pitch=96, bias=bias, activation=activation, residual=residual
    )
    kept = np.arange(70) % 9 < 7  # a border of two columns
    mask = np.where(kept, np.uint32(0xFFFFFFFF), np.uint32(0))
    return replace(found, mask=mask) if masked else found


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("vectors", [1, 3])
def test_bias_residual_activation_and_mask(
    activation: str, residual: bool, masked: bool, vectors: int
) -> None:
    given = layer(activation, residual, masked)
    kernel, end = Nothing(given, vectors), 96 // (vectors * llvm.host().lanes)
    end *= vectors * llvm.host().lanes
    y = np.random.default_rng(0).standard_normal((2, 96)).astype(np.float32)
    right = act(activation, (y if residual else 0 * y) + given.bias[:, None])
    if masked:
        right[:, np.arange(96) % 9 >= 7] = 0
        right[:, 70:] = 0  # what is behind the image's end
    right[:, end:] = y[:, end:]
    kernel(0, y.ctypes.data, y.ctypes.data if residual else 0, 0, end, 0, 2)
    np.testing.assert_allclose(y, right, rtol=1e-6, atol=1e-6)


def test_masks_reach_behind_the_end_and_are_whole_vectors() -> None:
    bias, mask, (pitch, known) = outputs(layer("none", False, True), 16)
    assert bias.tolist() == [-0.5, 2] and pitch == 96
    assert known == 80 and len(mask) > known and not mask[70:].any()
