"""Turned matrices, whole blocks and edges, between forbidden pages."""

from __future__ import annotations

import pytest
import torch
from guarded import guarded

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.transpose import text, transpose


@pytest.mark.parametrize("rows", [1, 8, 19, 32])
@pytest.mark.parametrize("columns", [1, 16, 29])
@pytest.mark.parametrize("at_end", [True, False])
def test_a_turned_matrix(rows: int, columns: int, at_end: bool) -> None:
    source, out = (
        torch.from_numpy(guarded(rows * columns, at_end=at_end)).view(shape)
        for shape in ((rows, columns), (columns, rows))
    )
    source.copy_(torch.randn(rows, columns))
    transpose(source, out)
    assert torch.equal(out, source.t())


def test_parts_of_larger_matrices_and_those_with_gaps() -> None:
    source, out = torch.randn(20, 40), torch.zeros(30, 25)
    transpose(source[:18, 3:31], out[1:29, 2:20])
    assert torch.equal(out[1:29, 2:20], source[:18, 3:31].t())
    assert not out[0].any() and not out[29].any() and not out[:, 20:].any()
    turned = torch.empty(18, 20)
    transpose(source.t()[2:22, :18], turned)
    assert torch.equal(turned, source.t()[2:22, :18].t())


def test_other_types_are_turned_by_torch() -> None:
    source, out = torch.arange(256).view(16, 16), torch.empty(16, 16)
    transpose(source, out)
    assert torch.equal(out, source.t().float())


def test_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \[2, 3\]"):
        transpose(torch.zeros(2, 3), torch.zeros(2, 3))


def test_other_machines_get_whole_vectors() -> None:
    assert "zmm" in llvm.assembly(text(llvm.AVX512), llvm.AVX512)
    assert "zip" in llvm.assembly(text(llvm.NEON), llvm.NEON)
