"""Masks of bits, applied in place, between forbidden pages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guarded import guarded

from secateur.runtime.kernels import clear, llvm
from secateur.runtime.kernels.clear import Clear, takes, text

pytestmark = pytest.mark.skipif(not llvm.available(), reason="needs llvmlite")


def bits_of(masks: list[torch.Tensor]) -> torch.Tensor:
    packed = [np.packbits(mask.numpy(), bitorder="little") for mask in masks]
    return torch.from_numpy(np.concatenate(packed))


@pytest.mark.parametrize("size", [1, 7, 8, 31, 32, 33, 100])
@pytest.mark.parametrize("at_end", [True, False])
def test_nothing_else_is_touched(size: int, at_end: bool) -> None:
    tensor = torch.from_numpy(guarded(size, at_end=at_end))
    tensor.copy_(torch.randn(size))
    mask = torch.rand(size) < 0.5
    expected = torch.where(mask, tensor, 0)
    Clear([tensor], bits_of([mask]))()
    assert torch.equal(tensor, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", [8, 1 << 18])
def test_several_tensors_in_parts(
    dtype: torch.dtype, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clear, "PART", part)
    shapes = [(3, 5), (0, 4), (7, 9), (2, 3, 11)]
    masks = [torch.rand(shape) < 0.5 for shape in shapes]
    tensors = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    run = Clear(tensors, bits_of(masks))
    for _ in range(2):
        for tensor in tensors:
            tensor.copy_(torch.randn(tensor.shape))
        expected = [torch.where(mask, t, 0) for mask, t in zip(masks, tensors, strict=True)]
        run()
        assert all(map(torch.equal, tensors, expected))


@pytest.mark.parametrize("size", [5, 32, 77])
def test_numbers_from_elsewhere(size: int) -> None:
    source, out, mask = torch.randn(size), torch.full((size,), 9.0), torch.rand(size) < 0.5
    before = source.clone()
    Clear([out], bits_of([mask]), [source])()
    assert torch.equal(out, torch.where(mask, source, 0)) and torch.equal(source, before)


def test_nothing_to_do() -> None:
    Clear([torch.zeros(0)], torch.zeros(0, dtype=torch.uint8))()


def test_what_it_takes() -> None:
    assert takes(torch.zeros(2, 3)) and takes(torch.zeros(2, dtype=torch.bfloat16))
    assert not takes(torch.zeros(2, 3).t())
    assert not takes(torch.zeros(2, dtype=torch.int32))
    assert not takes(torch.zeros(2, device="meta"))


@pytest.mark.parametrize("size", clear.SIZES)
def test_other_machines_get_whole_vectors(size: int) -> None:
    wide = {2: "ymm", 4: "zmm", 8: "zmm"}[size]  # 16 numbers at a time
    assert wide in llvm.assembly(text(size, llvm.AVX512), llvm.AVX512)
    assert {2: ".8h", 4: ".4s", 8: ".2d"}[size] in llvm.assembly(text(size, llvm.NEON), llvm.NEON)
