"""How much of which weight stays, and which entries: counts, thresholds, rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.allocate.weights import allocated, cells, chosen, in_rounds
from secateur.core.batches import Call
from secateur.core.errors import RecipeError
from secateur.core.tensors import light_copy, own_memory
from secateur.core.weight_site import WeightSite
from secateur.measure.stats import Gather
from secateur.score.criterion import Facts
from secateur.score.weight_run import WeightScores, resolve_weight, weight_scores
from secateur.units import Block, Pattern, Weight, weight_sites


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 2)
    )


def parts(model: nn.Module, name: str = "magnitude") -> tuple[Any, Any, Any]:
    places, facts = weight_sites(model), Facts.of(model)
    return places, facts, weight_scores(resolve_weight(name), places, facts, None)


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("how", ["global", "lamp"])
def test_thresholds_keep_the_best_of_all_tensors(how: str, sparsity: float) -> None:
    model = net()
    places, facts, scores = parts(model)
    shares = allocated(how, places, Pattern(), sparsity, scores, facts)
    kept = {s.name: round(shares[s.name] * s.n) for s in places}
    total = sum(s.n for s in places)
    assert sum(kept.values()) <= int(total * (1 - sparsity) + 1e-9)
    best = scores if how == "global" else parts(model, "lamp")[2]
    everything = torch.cat([best[s.name].flatten() for s in places])
    border = everything.sort(descending=True).values[int(total * (1 - sparsity)) - 1]
    if min(kept.values()) > 1:  # no tensor had to be saved from being emptied
        for s in places:
            assert kept[s.name] == int((best[s.name] >= border).sum())


def test_no_tensor_is_emptied_and_the_budget_still_holds() -> None:
    model = net()
    with torch.no_grad():
        model[5].weight.mul_(1e-6)
    places, facts, scores = parts(model)
    shares = allocated("global", places, Pattern(), 0.9, scores, facts)
    kept = {s.name: round(shares[s.name] * s.n) for s in places}
    assert kept["5.weight"] == 1
    assert sum(kept.values()) == int(sum(s.n for s in places) * 0.1 + 1e-9)


def test_shapes_outliers_and_densities_of_one_s_own() -> None:
    model = net()
    places, facts, scores = parts(model)
    uniform = allocated("uniform", places, Pattern(), 0.7, scores, facts)
    assert list(uniform.values()) == pytest.approx([0.3] * 3)
    erk = allocated("erk", places, Pattern(), 0.7, scores, facts)
    assert erk["5.weight"] > erk["3.weight"]
    own = {"0.weight": 0.5, "3.weight": 1.0, "5.weight": 0.1}
    assert allocated(own, places, Pattern(), 0.7, scores, facts) == own
    gather = Gather(model, None, [torch.randn(9, 3, 3, 3)])
    owl = allocated("owl", places, Pattern(), 0.7, scores, facts, gather)
    assert sum(owl[s.name] * s.n for s in places) == pytest.approx(
        0.3 * sum(s.n for s in places), rel=1e-6
    )


def test_cells_of_blocks_and_their_thresholds() -> None:
    site = WeightSite("w", (10, 6))
    assert cells(site, Block(4, 1).pattern) == 3 * 6 and cells(site, Weight().pattern) == 60
    assert cells(site, Block(1, None).pattern) == 10 and cells(site, Block(4, 4).pattern) == 6
    places, facts, scores = parts(net())
    shares = allocated("global", places, Block(4, 1).pattern, 0.5, scores, facts)
    total = sum(round(shares[s.name] * cells(s, Block(4, 1).pattern)) for s in places)
    assert total == sum(cells(s, Block(4, 1).pattern) for s in places) // 2


def test_what_is_refused() -> None:
    places, facts, scores = parts(net())
    with pytest.raises(RecipeError, match="no allocation of weights called 'globl'"):
        allocated("globl", places, Pattern(), 0.5, scores, facts)
    with pytest.raises(RecipeError, match="the same part of every weight"):
        allocated("lamp", places, Pattern(group=4, keep=2), 0.5, scores, facts)
    with pytest.raises(RecipeError, match="would break the pattern"):
        used = resolve_weight("dsnot")
        list(chosen(used, places, Pattern(group=4, keep=2), {}, WeightScores(used, places, facts)))


def test_exchanges_and_updates_follow_the_mask() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    data = [(torch.randn(30, 6) + 1, torch.randint(0, 3, (30,)))]
    places, gather = weight_sites(model), Gather(model, None, data)
    shares = dict.fromkeys((s.name for s in places), 0.5)
    for name in ("dsnot", "woodfisher"):
        used = resolve_weight(name)
        scores = weight_scores(used, places, Facts.of(model), gather)
        for site, keep, update in chosen(used, places, Pattern(group="row"), shares, scores):
            assert (keep.sum(1) == keep.shape[1] // 2).all()
            assert (update is not None) == (name == "woodfisher")
            if update is not None:
                old = model.get_parameter(site.name).detach()
                assert not update[~keep].any() and not torch.equal(update, old * keep)


def test_rounds_score_what_goes_first_lowest() -> None:
    model = net()
    places = weight_sites(model)
    twin = light_copy(model)
    own_memory(twin, model)
    seen: list[int] = []

    def look(masks: Mapping[str, Tensor]) -> tuple[Facts, Any]:
        seen.append(sum(int(mask.sum()) for mask in masks.values()))
        with torch.no_grad():
            for name, mask in masks.items():
                twin.get_parameter(name).mul_(mask)
        call = Call((torch.randn(1, 3, 3, 3),), {})
        return Facts.of(twin), Gather(twin, call, None)

    ranks = in_rounds(resolve_weight("synflow"), places, Pattern(), 0.9, look)
    total = sum(s.n for s in places)
    assert seen[0] == total and seen == sorted(seen, reverse=True) and len(seen) == 100
    stays = sum(int((ranks[s.name] == 100).sum()) for s in places)
    assert stays == int(total * 0.1 + 1e-6)
    assert all(bool((ranks[s.name] == 100).any()) for s in places)  # no layer collapses
