"""Kernels that read live rows only, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.runtime.kernels import skip
from secateur.runtime.kernels.llvm import AVX2, AVX512, NEON

pytest.importorskip("llvmlite", reason="kernels are made with llvmlite")
needs_kernels = pytest.mark.skipif(not skip.available(), reason="no code can be made here")

SHAPES = [(1, 1), (3, 2), (7, 8), (8, 15), (9, 16), (33, 100), (64, 31), (50, 4099), (130, 257)]


def near(found: Tensor, wanted: Tensor, size: Tensor) -> bool:
    """Within a few roundings of what is added up."""
    return bool(((found.double() - wanted).abs() <= 2e-6 * size + 1e-30).all())


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_live_inputs_give_what_zeros_give(shape: tuple[int, int], share: float) -> None:
    k, n = shape
    x, columns, bias = torch.randn(k), torch.randn(k, n), torch.randn(n)
    threshold = float(x.abs().quantile(share)) if share else 0.0
    live = torch.where(x.abs() > threshold, x, torch.zeros(())).double()
    for b in (bias, None):
        start = torch.zeros(n).double() if b is None else b.double()
        wanted, size = live @ columns.double() + start, live.abs() @ columns.double().abs()
        assert near(skip.skipping(x, columns, b, threshold), wanted, size + start.abs())


@needs_kernels
def test_sums_start_from_what_is_given() -> None:
    x, columns, start = torch.randn(5), torch.randn(5, 9), torch.randn(9)
    wanted = x @ columns + start
    found = skip.skipping(x, columns, None, 0.0, start)
    assert found is start
    assert torch.allclose(found, wanted, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
def test_selected_rows_are_rows_of_the_product(shape: tuple[int, int]) -> None:
    k, n = shape
    x, weight, bias = torch.randn(k), torch.randn(n, k), torch.randn(n)
    for rows in (torch.arange(n), torch.randperm(n)[: n // 2], torch.arange(0)):
        part = weight[rows].double()
        wanted, size = part @ x.double() + bias[rows].double(), part.abs() @ x.abs().double()
        assert near(skip.selected(x, weight, bias, rows), wanted, size + bias[rows].abs())
        assert near(skip.selected(x, weight, None, rows), wanted - bias[rows].double(), size)


@needs_kernels
def test_what_is_no_number_is_alive() -> None:
    columns = torch.ones(3, 20)
    assert bool(
        skip.skipping(torch.tensor([0.0, float("nan"), 0.0]), columns, None, 1.0).isnan().all()
    )
    assert bool(
        skip.skipping(torch.tensor([0.0, -float("inf"), 0.0]), columns, None, 1.0).isinf().all()
    )
    columns[2] = float("nan")  # a row that is skipped is not read
    assert torch.equal(
        skip.skipping(torch.tensor([2.0, 0.0, 0.5]), columns, None, 1.0), torch.full((20,), 2.0)
    )


@needs_kernels
def test_threads_share_the_columns() -> None:
    x, columns, weight = torch.randn(700), torch.randn(700, 1501), torch.randn(1501, 700)
    rows = torch.arange(1, 1501, 2)
    alone = skip.skipping(x, columns, None, 0.3), skip.selected(x, weight, None, rows)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(skip.skipping(x, columns, None, 0.3), alone[0])
        assert torch.equal(skip.selected(x, weight, None, rows), alone[1])
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_which_tensors_can_be_read() -> None:
    x = torch.zeros(2)
    assert skip.usable(x, None)
    assert not skip.usable(x.double())
    assert not skip.usable(x.requires_grad_())
    with torch.no_grad():
        assert skip.usable(x)


@pytest.mark.parametrize(
    ("target", "sign"),
    [(AVX2, "ymm"), (AVX512, "zmm"), (NEON, "fmla\tv")],
    ids=lambda x: str(x)[:8],
)
def test_other_processors_have_kernels_too(target: skip.Target, sign: str) -> None:
    from secateur.runtime.kernels.llvm import assembly

    assert sign in assembly(skip.source(target), target)
