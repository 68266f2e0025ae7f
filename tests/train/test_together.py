"""Weights that are masked at once."""

from __future__ import annotations

import pytest
import torch
from training import held, net

from secateur.train import together
from secateur.train.together import gathered


@pytest.mark.parametrize("limit", [1, 4400, 1 << 24])
def test_removed_weights_become_zero_and_others_stay(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "LIMIT", limit)
    model = net()
    items = held(model)
    masks, before = [], []
    for item in items:
        item.mask = torch.rand(item.used.shape) < 0.5
        masks.append(item.mask)
        before.append(item.used.clone())
    found = gathered(items)
    assert list(found) == [id(items[0].optimizer)]
    parts = found[id(items[0].optimizer)]
    assert len(parts) == {1: 3, 4400: 2, 1 << 24: 1}[limit]
    for change in (lambda: None, model.double, lambda: model.to(memory_format=torch.channels_last)):
        change()
        with torch.no_grad():
            for item, old in zip(items, before, strict=True):
                item.used.copy_(old)
            for part in parts:
                part.apply()
        for item, mask, old in zip(items, masks, before, strict=True):
            assert torch.equal(item.used, old.to(item.used.dtype) * mask)
            assert torch.equal(item.mask, mask)  # their bits are parts of one tensor now


def test_masks_of_a_group_share_their_memory() -> None:
    items = held(net())
    (part,) = gathered(items)[id(items[0].optimizer)]
    places = {item.packed.untyped_storage().data_ptr() for item in items}
    assert places == {part.bits.untyped_storage().data_ptr()}
    assert part.bits.untyped_storage().nbytes() == sum(-(-item.total // 8) for item in items)
