"""What is saved, and what is refused."""

from __future__ import annotations

import pytest
import torch
from training import held, net

from secateur.core.errors import FileError
from secateur.train.bits import pack
from secateur.train.state import dump, restore


def test_nothing_is_changed_by_what_does_not_fit() -> None:
    items = held(net())
    state = dump(items)
    state["0.weight"]["mask"] = pack(torch.zeros(8, 1, 3, 3, dtype=torch.bool))
    state["5.weight"]["shape"] = [8, 31]
    with pytest.raises(FileError, match="8, 31"):
        restore(items, state)
    assert items[0].mask.all()


def test_masks_take_a_bit_a_weight() -> None:
    items = held(net())
    state = dump(items)
    assert sum(entry["mask"].numel() for entry in state.values()) == 4424 // 8
