"""Head: whole attention heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.graph.graph import Graph
from secateur.units.axes import axis_sites, positive


@dataclass(frozen=True)
class Head:
    """Remove whole attention heads: every free axis that counts heads.

    floor: the fewest heads that an attention keeps.

    Raises:
        RecipeError: `floor` is not an integer of at least 1.
    """

    floor: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        positive("Head", floor=self.floor)

    def sites(self, graph: Graph, scope: Scope, model: nn.Module) -> list[Site]:
        """One site for every free head axis whose producers are in scope."""
        return axis_sites(
            graph, scope.select(model), lambda axis: axis.head, unit="head", floor=self.floor
        )
