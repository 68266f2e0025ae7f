"""Global thresholds: exact, in any split, with ties, zeros, infinities and several processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.allocate.threshold import _BINS as BINS
from secateur.allocate.threshold import _BITS as BITS
from secateur.allocate.threshold import ordered, threshold


def select(parts: list[Tensor], keep: int) -> list[Tensor]:
    found = threshold(lambda: parts, keep)
    masks, seen = [], 0
    for part in parts:
        mask, seen = found.split(part, seen)
        masks.append(mask)
    return masks


VALUES = st.one_of(
    st.floats(width=32, allow_nan=False), st.sampled_from([0.0, -0.0, 1.0, float("-inf")])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(VALUES, max_size=12), min_size=1, max_size=5), st.integers(-1, 40))
def test_it_is_a_stable_sort(values: list[list[float]], keep: int) -> None:
    parts = [torch.tensor(part, dtype=torch.float32) for part in values]
    masks = torch.cat(select(parts, keep))
    whole = torch.cat(parts) + 0.0
    expected = torch.zeros(len(whole), dtype=torch.bool)
    expected[whole.argsort(descending=True, stable=True)[: max(keep, 0)]] = True
    assert torch.equal(masks, expected)


def test_parts_need_not_be_there_at_once() -> None:
    asked = []

    def parts():  # type: ignore[no-untyped-def]
        for seed in range(4):
            asked.append(seed)
            yield torch.rand(1000, generator=torch.Generator().manual_seed(seed))

    found = threshold(parts, 700)
    assert asked == [0, 1, 2, 3] * 2
    kept = sum(int((ordered(part) > found.value).sum()) for part in parts())
    assert kept <= 700 <= kept + sum(int((ordered(p) == found.value).sum()) for p in parts())


def test_histograms_of_several_processes_add_up() -> None:
    """Each sees a half; the threshold is that of the whole."""
    torch.manual_seed(0)
    halves = [torch.randn(500), torch.randn(300)]
    whole = threshold(lambda: halves, 123)
    upper = sum(  # in two passes, as an all-reduce would: first the upper halves of the bits
        torch.bincount(ordered(part) >> BITS, minlength=BINS) for part in halves
    )
    calls = iter([torch.as_tensor(upper), None])

    def reduce(counts: Tensor) -> Tensor:
        given = next(calls)
        if given is not None:
            return given
        other = ordered(halves[1])
        lower = other[(other >> BITS) == whole.value >> BITS] & (BINS - 1)
        return counts + torch.bincount(lower, minlength=BINS)

    assert threshold(lambda: halves[:1], 123, reduce) == whole


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    part = torch.randn(50).to(dtype)
    mask = select([part], 10)[0]
    assert part[mask].min() >= part[~mask].max()
