"""Channel: filters, neurons, hidden units, embedding width: any free axis but heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.graph.graph import Graph
from secateur.units.axes import axis_sites, positive


@dataclass(frozen=True)
class Channel:
    """Remove whole channels: every free axis that does not count attention heads.

    multiple: kept counts are rounded down to a multiple of this (an axis that keeps everything
    may stay as it is). floor: the fewest that an axis keeps.

    Raises:
        RecipeError: `multiple` or `floor` is not an integer of at least 1.
    """

    multiple: int = 1
    floor: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        positive("Channel", multiple=self.multiple, floor=self.floor)

    def sites(self, graph: Graph, scope: Scope, model: nn.Module) -> list[Site]:
        """One site for every free axis that is no head axis and whose producers are in scope."""
        return axis_sites(
            graph,
            scope.select(model),
            lambda axis: not axis.head,
            unit="channel",
            multiple=self.multiple,
            floor=self.floor,
        )
