from __future__ import annotations

import mmap

import pytest

from secateur.engine.arena import Arena


def test_memory_is_used_again_for_the_same_key_only() -> None:
    arena = Arena()
    first = arena.take("a", 100, "x")
    assert arena.take("b", 100, "x") is not first
    arena.free("a")
    assert arena.take("c", 100, "y") is not first
    assert arena.take("d", 100, "x") is first
    assert arena.bytes == 3 * 400
    assert first.address % 64 == 0


def test_a_view_keeps_memory() -> None:
    arena = Arena()
    buffer = arena.take("a", 100, "x")
    view = buffer.tensor[10:20]
    assert arena.share("b", view) is buffer and arena.find(view) is buffer
    arena.free("a")
    assert arena.take("c", 100, "x") is not buffer
    arena.free("b")
    assert arena.take("d", 100, "x") is buffer


def test_memory_is_taken_over_when_all_in_it_is_read_for_the_last_time() -> None:
    arena = Arena()
    buffer = arena.take("a", 100, "x")
    arena.share("view", buffer.tensor[10:])
    assert arena.take_over("b", buffer.tensor, "x", {"a"}) is None  # the view is needed
    assert arena.take_over("b", buffer.tensor, "y", {"a", "view"}) is None
    assert arena.take_over("b", buffer.tensor, "x", {"a", "view"}) is buffer
    arena.free("a")
    arena.free("view")
    assert arena.take("c", 100, "x") is not buffer
    arena.free("b")
    assert arena.take("d", 100, "x") is buffer


def test_large_buffers_are_not_wasted_on_small_values() -> None:
    arena = Arena()
    buffer = arena.take("a", 1_000_000, "x")
    arena.free("a")
    assert arena.take("b", 100, "x") is not buffer


@pytest.mark.parametrize("huge", ["as here", "refused", "unknown"])
def test_buffers_are_neighbours_zero_and_apart(huge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if huge == "refused" and hasattr(mmap, "MADV_HUGEPAGE"):
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12345)  # the system says EINVAL
    if huge == "unknown":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    arena = Arena()
    taken = [arena.take(str(n), n, "x") for n in (1, 17, 40, 9_000_000)]
    assert all(b.address % 64 == 0 and not b.tensor.any() for b in taken)
    assert taken[1].address - taken[0].address == 64
    for i, buffer in enumerate(taken):
        buffer.tensor.fill_(i)
        assert [b for b in taken if b.holds(buffer.tensor[-1:])] == [buffer]
    assert all((b.tensor == i).all() for i, b in enumerate(taken))
