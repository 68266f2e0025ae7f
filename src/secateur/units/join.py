"""Several units together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from secateur.core.errors import RecipeError
from secateur.core.scope import Scope
from secateur.core.site import Site
from secateur.graph.graph import Graph


@runtime_checkable
class Unit(Protocol):
    """What a recipe removes; anything with this one method will do."""

    def sites(self, graph: Graph, scope: Scope, model: nn.Module) -> list[Site]:
        """The places of this kind that are free and in scope."""
        ...


def sites(
    graph: Graph, units: Unit | Sequence[Unit], scope: Scope | None, model: nn.Module
) -> list[Site]:
    """The sites of one or several units, in order.

    Example:
        >>> import torch
        >>> from secateur.graph import analyze
        >>> from secateur.units import Channel, Head
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = sites(analyze(net, torch.zeros(1, 3)), [Channel(), Head()], None, net)
        >>> [(site.name, site.unit, site.n) for site in found]
        [('0', 'channel', 8)]

    Raises:
        RecipeError: there is no unit, something is not a unit, or two units claim the same place.
    """
    given = [units] if isinstance(units, Unit) else list(units)
    if not given:
        raise RecipeError("there is no unit", hint="for example unit=Channel()")
    found: dict[str, Site] = {}
    for unit in given:
        if isinstance(unit, type) or not isinstance(unit, Unit):
            shown = f"{unit.__name__}()" if isinstance(unit, type) else "Channel()"
            raise RecipeError(f"{unit!r} is not a unit", hint=f"write {shown}")
        for site in unit.sites(graph, Scope.of(scope), model):
            if site.name in found:
                raise RecipeError(
                    f"two units ({found[site.name].unit}, {site.unit}) claim {site.name}",
                    hint="give every unit once",
                )
            found[site.name] = site
    return list(found.values())
