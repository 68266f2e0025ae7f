"""Choosing masks: against sorting everything, for all allocations and patterns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from training import held, net

import secateur as sc
from secateur.allocate.densities import densities
from secateur.score.lamp import lamp_of
from secateur.train.choose import Chooser
from secateur.train.held import Held
from secateur.train.peers import Peers
from secateur.units.pattern import Pattern
from secateur.units.weight import weight_sites


def size(item: Held) -> Tensor:
    return item.site.matrix(item.used.abs())


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 0.999])
def test_global_is_one_sort(sparsity: float) -> None:
    items = held(net())
    masks = Chooser(Pattern(), "global", Peers()).masks(items, size, sparsity)
    whole = torch.cat([item.used.abs().flatten() for item in items])
    keep = max(3, int(len(whole) * (1 - sparsity) + 1e-9))
    assert sum(int(mask.sum()) for mask in masks) == keep
    kept = torch.cat([mask.flatten() for mask in masks])
    firsts = torch.zeros(len(whole), dtype=torch.bool)  # the best of each tensor always stays
    start = 0
    for item in items:
        firsts[start + int(item.used.abs().flatten().argmax())] = True
        start += item.total
    order = torch.where(firsts, torch.inf, whole).argsort(descending=True)
    assert torch.equal(kept.nonzero().flatten(), order[:keep].sort().values)


@pytest.mark.parametrize("name", ["uniform", "erk"])
def test_per_tensor_allocations(name: str) -> None:
    model = net()
    items = held(model)
    masks = Chooser(Pattern(), name, Peers()).masks(items, size, 0.8, part=0.5)
    final = densities(name, weight_sites(model), 0.8)
    for item, mask in zip(items, masks, strict=True):
        count = int(item.total * (1 - 0.5 * (1 - final[item.name])) + 1e-9)
        best = item.used.abs().flatten().topk(count).indices.sort().values
        assert torch.equal(mask.flatten().nonzero().flatten(), best)


def test_lamp_is_a_global_sort_of_lamp_scores() -> None:
    items = held(net())
    masks = Chooser(Pattern(), "lamp", Peers()).masks(items, size, 0.9)
    scores = torch.cat([lamp_of(item.used.double().square()).flatten() for item in items])
    keep = int(len(scores) * 0.1 + 1e-9)
    kept = torch.cat([mask.flatten() for mask in masks])
    assert int(kept.sum()) == keep
    assert scores[kept].min() >= scores[~kept].max() * (1 - 1e-6)


def test_each_tensor_keeps_something() -> None:
    items = held(net())
    with torch.no_grad():
        items[1].used.mul_(1e-6)
    for name in ("global", "lamp", "uniform", "erk"):
        masks = Chooser(Pattern(), name, Peers()).masks(items, size, 0.999)
        assert all(mask.any() for mask in masks)


def test_equal_scores_go_from_first_to_last() -> None:
    model = nn.Linear(4, 2, bias=False)
    nn.init.ones_(model.weight)
    mask = Chooser(Pattern(), "uniform", Peers()).masks(held(model), size, 0.5)[0]
    assert mask.int().tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    "unit", [sc.Weight("row"), sc.Weight(per=4), sc.NM(2, 4), sc.NM(1, 3)], ids=repr
)
def test_grouped_patterns(unit: sc.Weight | sc.NM) -> None:
    items = held(net())
    keep = 0.5 if isinstance(unit, sc.Weight) else unit.n / unit.m
    masks = Chooser(unit.pattern, "uniform", Peers()).masks(items, size, 1 - keep)
    for item, mask in zip(items, masks, strict=True):
        expected = unit.pattern.choose(size(item), keep, item.site.taps)
        assert torch.equal(item.site.matrix(mask), expected)


@pytest.mark.parametrize("unit", [sc.Block(4, 1), sc.Block(2, 3), sc.Block(1, None)], ids=repr)
def test_blocks_go_together_and_count_as_cells(unit: sc.Block) -> None:
    items = held(net())
    masks = Chooser(unit.pattern, "uniform", Peers()).masks(items, size, 0.5)
    for item, mask in zip(items, masks, strict=True):
        cells = unit.pattern.pool(item.site.matrix(mask.float()), item.site.taps)
        assert ((cells < 1e-6) | (cells > 1 - 1e-6)).all()
        assert int((cells > 0.5).sum()) == int(cells.numel() / 2)


def test_exchanging_in_groups_keeps_their_counts() -> None:
    unit = sc.Weight(per=8)
    item = held(nn.Linear(24, 6, bias=False))[0]
    chooser = Chooser(unit.pattern, "uniform", Peers())
    item.mask = chooser.masks([item], size, 0.5)[0]
    growth = torch.rand(6, 24)
    new = chooser.exchange(item, size, lambda item: growth, item.mask, 0.5)
    assert torch.equal(new.view(6, 3, 8).sum(2), torch.full((6, 3), 4))
    strongest = torch.where(item.mask, item.used.abs(), -1).view(6, 3, 8).topk(2).indices
    assert new.view(6, 3, 8).gather(2, strongest).all()


def test_scores_that_are_not_numbers() -> None:
    item = held(net())[1]
    for pattern in (Pattern(), Pattern(group=4)):
        with pytest.raises(sc.SecateurError, match="3 of its scores are not numbers"):
            Chooser(pattern, "uniform", Peers()).masks(
                [item], lambda item: size(item).index_fill(1, torch.tensor([0]), 1.0).put_(
                    torch.arange(3), torch.full((3,), float("nan"))), 0.5,
            )  # fmt: skip
