"""What is asked of data before the first step; how it is used is in test_attach.py."""

from __future__ import annotations

import torch
from torch import nn
from training import batches, held, net

import secateur as sc
from secateur.score.criterion import Facts
from secateur.train.ahead import gradients, scored
from secateur.train.peers import Peers
from secateur.train.settings import Settings


def test_gradients_are_those_of_all_batches_together() -> None:
    model = net()
    data = list(batches(3))
    found = gradients(model, data, None, {"5.weight"}, Peers())
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    nn.functional.cross_entropy(model(x), y).backward()
    assert list(found) == ["5.weight"]
    torch.testing.assert_close(found["5.weight"], model[5].weight.grad)


def test_scores_are_known_from_then_on() -> None:
    model = net()
    items = held(model)
    recipe = sc.Recipe(criterion="wanda", budget=sc.Sparsity(0.5))
    settings = Settings.of(recipe, items, Peers(), ahead=True)
    sites = [item.site for item in items]
    known, found = scored(model, list(batches(2)), None, sites, settings)
    assert not known.criterion.needs and known.criterion.name == "wanda"
    for site in sites:
        assert known.criterion(site, Facts({})) is found[site.name]
