"""Patterns: pooling and spreading undo each other, choices are the best by brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur.units.pattern import Pattern, best

PATTERNS = [
    Pattern(), Pattern(group="row"), Pattern(group=4), Pattern(group=4, keep=2), Pattern(4, 1),
    Pattern(2, 3), Pattern(1, None), Pattern(3, None), Pattern(2, 1, group=4, keep=1),
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PATTERNS), st.integers(1, 9), st.integers(1, 11), st.integers(1, 4),
    st.integers(0, 999),
)  # fmt: skip
def test_what_is_pooled_spreads_back(
    pattern: Pattern, out: int, channels: int, taps: int, seed: int
) -> None:
    """A mask that is constant on cells survives; filling never becomes an entry."""
    generator = torch.Generator().manual_seed(seed)
    shape = (out, channels * taps)
    pooled = pattern.pool(torch.zeros(shape), taps)
    cells = torch.rand(pooled.shape, generator=generator) > 0.5
    mask = pattern.spread(cells, shape, taps)
    assert mask.shape == shape
    again = pattern.pool(mask.float(), taps)
    real = again > float("-inf")
    assert torch.equal(again[real] > 0.5, cells[real])
    assert (again[real] * (1 - again[real])).abs().max() < 1e-6


@pytest.mark.parametrize("pattern", [Pattern(group=4, keep=2), Pattern(group=3, keep=1)], ids=repr)
def test_fixed_patterns_keep_the_best_of_each_group(pattern: Pattern) -> None:
    """Along input channels at one tap, by trying all subsets."""
    torch.manual_seed(0)
    taps, channels = 2, 2 * int(pattern.group or 0)
    scores = torch.rand(3, channels * taps)
    keep = pattern.keep or 0
    mask = pattern.choose(scores, keep / int(pattern.group or 1), taps)
    for row in range(3):
        for tap in range(taps):
            for start in range(0, channels, int(pattern.group or 1)):
                places = [c * taps + tap for c in range(start, start + int(pattern.group or 1))]
                top = max(combinations(places, keep), key=lambda s: scores[row, list(s)].sum())
                assert {p for p in places if mask[row, p]} == set(top)


def test_blocks_are_scored_by_their_means_at_ragged_edges_too() -> None:
    scores = torch.arange(15.0).reshape(3, 5)
    pooled = Pattern(2, 2).pool(scores)
    expected = [scores[r : r + 2, c : c + 2].mean() for r in (0, 2) for c in (0, 2, 4)]
    torch.testing.assert_close(pooled, torch.stack(expected)[None])


def test_whole_rows_have_one_score() -> None:
    scores = torch.rand(4, 6)
    torch.testing.assert_close(Pattern(1, None).pool(scores, taps=3), scores.mean(1)[None])
    mask = Pattern(1, None).choose(scores, 0.5, taps=3)
    assert mask.all(1).sum() == 2 and torch.equal(mask.any(1), mask.all(1))


def test_ragged_groups_keep_their_share() -> None:
    mask = Pattern(group=4, keep=2).choose(torch.rand(2, 7), 0.5)
    assert mask[:, :4].sum(1).tolist() == [2, 2] and mask[:, 4:].sum(1).tolist() == [2, 2]


def test_partly_patterned() -> None:
    """At 75 % half of the groups are whole: those that would lose most."""
    scores = torch.tensor([[4.0, 3, 2, 1], [9, 8, 7, 6]])
    mask = Pattern(group=4, keep=2).choose(scores, 0.75)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_best_prefers_earlier_ones() -> None:
    found = best(torch.tensor([[1.0, 2, 2, 2]]), torch.tensor([2]))
    assert found.int().tolist() == [[0, 1, 1, 0]]


def test_only_single_groups_are_free() -> None:
    assert [pattern.free for pattern in PATTERNS] == [
        True, False, False, False, True, True, True, True, False,
    ]  # fmt: skip
    assert sc.Block(1, None).pattern.free
