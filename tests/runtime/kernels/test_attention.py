"""Attention over planes, against PyTorch in float64, between forbidden pages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guarded import guarded
from torch import Tensor

from secateur.runtime.kernels import attention as kernel
from secateur.runtime.kernels import llvm
from secateur.runtime.machine import parallel

TOLERANCE = 2e-6  # relative to the largest value that is averaged


def planes(shape: tuple[int, int, int, int], at_end: bool) -> Tensor:
    """`[batch, heads, tokens, size]`, tokens side by side, without a float to spare."""
    batch, heads, tokens, size = shape
    memory = torch.from_numpy(guarded(batch * heads * tokens * size, at_end=at_end)).normal_()
    return memory.view(heads, size, batch, tokens).permute(2, 0, 3, 1)


def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    batch, heads, queries, size = q.shape
    out = planes(tuple(q.shape), at_end=True)  # type: ignore[arg-type]
    seen = None if mask is None else mask.mT.contiguous()
    room = torch.empty(batch * kernel.scratch(heads, k.shape[2]))
    places = [0 if t is None else t.data_ptr() for t in (k, v, seen, room)]
    numbers = [heads, queries, k.shape[2], size, q.stride(1), q.stride(3)]
    for other in (k, v):
        numbers += [other.stride(i) for i in (0, 1, 3)]
    strides = (0, 0) if seen is None else (seen.stride(0), seen.stride(1))
    numbers += [out.stride(1), out.stride(3), *strides, queries]
    assert len(numbers) == len(kernel.NUMBERS)
    bits = int(np.float32(scale).view(np.uint32))
    geometry = np.array([*places, *numbers, bits], np.int64)
    rows = [
        (q[i].data_ptr(), out[i].data_ptr(), geometry.ctypes.data, head, head + 1, i, 0)
        for i in range(batch)
        for head in range(heads)
    ]
    parallel(kernel.attention(mask is not None), np.array(rows, np.int64))
    return out


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes_between_guards(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    batch, heads, keys, size = (int(n) for n in rng.integers(1, [3, 4, 60, 40]))
    queries = kernel.lanes() + int(rng.integers(0, 70))
    at_end = bool(rng.integers(2))
    q = planes((batch, heads, queries, size), at_end)
    k, v = (planes((batch, heads, keys, size), at_end) for _ in range(2))
    mask = None
    if seed % 2:
        mask = torch.randn(batch, heads, queries, keys)
        mask[torch.rand(mask.shape) < 0.4] = float("-inf")
        mask[..., int(rng.integers(keys))] = 0
    scale = float(rng.choice([0.1, 1, 10]))
    found = run(q, k, v, mask, scale)
    double = [t.double() for t in (q, k, v)]
    given = None if mask is None else mask.double()
    right = torch.nn.functional.scaled_dot_product_attention(*double, given, scale=scale)
    # scores of 10 q k' lose digits before any softmax
    limit = TOLERANCE * max(1.0, scale * float((q.abs().amax() * k.abs().amax()) * size))
    assert (found - right).abs().max() <= limit * v.abs().max()


def test_nan_reaches_the_queries_that_see_it() -> None:
    q, k, v = (planes((1, 1, 40, 4), True) for _ in range(3))
    q[0, 0, 17, 2] = float("nan")
    found = run(q, k, v, None, 0.5)
    assert found[0, 0, 17].isnan().all() and int(found.isnan().any(-1).sum()) == 1


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("target", "sign"), [(llvm.AVX512, "zmm"), (llvm.AVX2, "ymm"), (llvm.NEON, "fmla\tv")]
)
def test_other_machines_get_whole_vectors(target: llvm.Target, sign: str, masked: bool) -> None:
    text = llvm.assembly(kernel.text(masked, target), target)
    assert sign in text and "callq" not in text and "\tbl\t" not in text
