from __future__ import annotations

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


def test_large_buffers_are_not_wasted_on_small_values() -> None:
    arena = Arena()
    buffer = arena.take("a", 1_000_000, "x")
    arena.free("a")
    assert arena.take("b", 100, "x") is not buffer
