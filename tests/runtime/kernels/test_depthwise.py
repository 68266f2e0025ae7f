"""Depthwise kernels against float64 and PyTorch, between forbidden pages, on several machines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from depthwise_fuzz import fuzz

from secateur.core.errors import UnsupportedModel
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.depthwise import Depthwise, DepthwiseKernel, source, supports

KINDS = [("relu6", False), ("none", True), ("silu", False), ("hardswish", True), ("relu", False)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_window_between_guards(kind: tuple[str, bool]) -> None:
    for seed in range(4):
        assert fuzz(np.random.default_rng(seed), *kind, 6, 4) < 1e-6


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_vectors_of_four_without_fused_operations(kind: tuple[str, bool]) -> None:
    fuzz(np.random.default_rng(9), *kind, 6, 4)


def some(stride: int = 1, wide: int = 9) -> Depthwise:
    weight = np.ones((2, 3, 3), np.float32)
    return Depthwise(weight, 400, 20, 400, 20, (7, wide), (stride, stride), (1, 1), residual=False)


def test_nan_and_infinity_are_where_torch_has_them() -> None:
    for stride in (1, 2):
        layer = some(stride)
        high, wide = 7 * stride, 9 * stride
        x, y = np.zeros((2, 20, 20), np.float32), np.zeros((2, 20, 20), np.float32)
        image = x[:, 1 : 1 + high, 1 : 1 + wide]
        image[:] = np.random.default_rng(0).standard_normal(image.shape)
        image[0, 2, 3], image[1, 6, 8], image[1, 0, 0] = np.nan, np.inf, -np.inf
        DepthwiseKernel(layer)(x.ctypes.data + 84, y.ctypes.data, 0, 0, 140, 0, 2)
        right = torch.nn.functional.conv2d(
            torch.from_numpy(image.copy())[None], torch.ones(2, 1, 3, 3), None, stride, 1, groups=2
        )
        found = torch.from_numpy(y[None, :, :7, :9].copy())
        torch.testing.assert_close(found, right, equal_nan=True, rtol=1e-5, atol=1e-5)
        assert not found.isnan().all() and found.isnan().any()


def test_what_there_is_no_code_for_is_refused() -> None:
    assert not supports(some(stride=3)) and not supports(replace(some(wide=2), out_row=3))
    for layer, rows in ((some(stride=3), 4), (some(), 0), (some(), 9)):
        with pytest.raises(UnsupportedModel, match=f"{rows} rows"):
            DepthwiseKernel(layer, rows)


def test_a_residual_in_place_needs_vectors_that_do_not_overlap() -> None:
    assert supports(replace(some(wide=8), residual=True))
    assert not supports(replace(some(wide=13), residual=True))


@pytest.mark.parametrize(
    ("target", "sign"), [(llvm.AVX512, "zmm"), (llvm.AVX2, "ymm"), (llvm.NEON, "fmla\tv")]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_other_machines_get_whole_vectors(target: llvm.Target, sign: str, stride: int) -> None:
    text = llvm.assembly(source(some(stride, wide=16), 4, target), target)
    assert sign in text and "callq" not in text and "\tbl\t" not in text
