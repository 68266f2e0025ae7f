"""Columns by taps."""

from __future__ import annotations

from secateur.recover.weights.order import tap_major


def test_taps_come_one_after_another() -> None:
    assert tap_major(4, 1).tolist() == [0, 1, 2, 3]
    assert tap_major(6, 3).tolist() == [0, 3, 1, 4, 2, 5]
    assert sorted(tap_major(12, 3).tolist()) == list(range(12))
