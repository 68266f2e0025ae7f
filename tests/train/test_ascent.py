"""The adaptive schedule's decisions; sessions with it are in test_session.py."""

from __future__ import annotations

import torch
from training import held, net

from secateur.core.schedule import Adaptive
from secateur.train.ascent import Ascent


def ascent(**fields: float) -> Ascent:
    return Ascent(Adaptive(len, tolerance=0.1, **{"by": 0.4, **fields}))  # type: ignore[arg-type]


def test_raise_accept_back_off_halve_stop() -> None:
    items = held(net())
    rise = ascent(least=0.15)
    event = rise.judge(1.0, items)
    assert event["kind"] == "look" and rise.next(event) == 0.4
    rise.try_(0.4, items, [item.mask.clone() for item in items])
    event = rise.judge(0.95, items)
    assert event["kind"] == "accept" and rise.level == 0.4 and rise.next(event) == 0.8
    rise.try_(0.8, items, [item.mask.clone() for item in items])
    event = rise.judge(0.8, items)
    assert event["kind"] == "back off" and rise.level == 0.4 and rise.next(event) is None
    event = rise.judge(0.8, items)
    assert event["kind"] == "wait" and rise.next(event) is None
    event = rise.judge(0.95, items)
    assert rise.next(event) == 0.4 + 0.2
    rise.try_(0.6, items, [item.mask.clone() for item in items])
    event = rise.judge(float("nan"), items)
    assert event["kind"] == "back off"
    assert rise.next(rise.judge(1.0, items)) is None  # 0.1 is below the least


def test_removed_values_come_back() -> None:
    items = held(net())
    before = [item.used.clone() for item in items]
    rise = ascent()
    rise.judge(1.0, items)
    masks = [torch.rand_like(item.used) > 0.5 for item in items]
    rise.try_(0.4, items, masks)
    for item, mask in zip(items, masks, strict=True):
        item.mask = mask
        item.used.mul_(mask)
    saved = rise.dump()
    rise.judge(0.0, items)
    assert all(torch.equal(item.used, old) for item, old in zip(items, before, strict=True))
    assert all(item.mask.all() for item in items)
    again = ascent()
    again.restore(saved, items)
    assert again.trial == 0.4 and torch.equal(again.masks["3.weight"], torch.ones(32, 128).bool())
