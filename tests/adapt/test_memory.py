"""The record of a dial's memory."""

from secateur.adapt.memory import Memory


def test_levels_count_beside_the_dense_network() -> None:
    memory = Memory(200, {0.5: 30, 0.25: 20})
    assert memory.stored == 250
    assert memory.times == 1.25
    assert "unpacked" not in str(memory)
    assert "2 smaller levels = 1.25 times" in str(memory)
    assert "for 1 smaller level =" in str(Memory(200, {0.5: 30}))
