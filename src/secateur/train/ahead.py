"""What is asked of data before the first step: gradients, and scores of criteria that need more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from secateur.core.weight_site import WeightSite
from secateur.measure.gradients import mean_over_batches
from secateur.measure.stats import Gather
from secateur.score.criterion import Facts
from secateur.score.weight import WeightCriterion
from secateur.score.weight_run import weight_scores
from secateur.train.peers import Peers
from secateur.train.settings import Settings

Loss = Callable[[nn.Module, Any], Tensor]


def gradients(
    root: nn.Module,
    batches: Sequence[Any],
    loss: Loss | None,
    names: set[str],
    peers: Peers,
) -> dict[str, Tensor]:
    """The mean gradients of weights, over the batches of all processes."""

    def visit(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: gradient for name, gradient in found.items() if name in names}

    found = mean_over_batches(root, batches, visit, loss=loss)
    return {name: peers.average(gradient.float()) for name, gradient in found.items()}


def scored(
    root: nn.Module,
    batches: Sequence[Any],
    loss: Loss | None,
    sites: Sequence[WeightSite],
    settings: Settings,
) -> tuple[Settings, dict[str, Tensor]]:
    """Settings whose criterion knows its scores already, and those: empty them after the update.

    They are the means of those of all processes' batches.
    """
    criterion, seed = settings.criterion, settings.seed
    facts = Facts.of(root, seed=seed)
    lazy = weight_scores(criterion, sites, facts, Gather(root, None, batches, loss, seed))
    peers = settings.chooser.peers
    found = {site.name: peers.average(lazy[site.name]) for site in sites}
    known = WeightCriterion(criterion.name, lambda site, facts: found[site.name])
    return replace(settings, criterion=known), found
