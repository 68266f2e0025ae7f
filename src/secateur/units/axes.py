"""From axes to sites: what the units over axes have in common."""

from __future__ import annotations

from collections.abc import Callable

from secateur.core.errors import RecipeError
from secateur.core.site import Site, Slice
from secateur.graph.graph import Axis, Graph

PRODUCERS = frozenset({"out", "scale", "shift"})


def axis_sites(
    graph: Graph,
    selected: frozenset[str],
    wanted: Callable[[Axis], bool],
    *,
    unit: str,
    multiple: int = 1,
    floor: int = 1,
) -> list[Site]:
    """The free axes that are `wanted` and in scope, as sites, in the graph's order.

    Scope is about what produces the units: an axis is left out when a tensor that is not in
    `selected` has it in a producing role (out, scale, shift). A tensor that only consumes it may
    be out of scope: skipping "fc" keeps all of fc's outputs, but its input columns still follow
    what happens before it.
    """
    slices = _slices(graph)
    found = []
    for axis in graph.axes.values():
        if axis.frozen is not None or not wanted(axis):
            continue
        parts = slices.get(axis.name, [])
        if all(part.tensor in selected for part in parts if part.role in PRODUCERS):
            found.append(
                Site(
                    axis.name,
                    unit,
                    axis.n,
                    tuple(parts),
                    what=axis.what,
                    statistical=axis.statistical,
                    multiple=multiple,
                    floor=floor,
                )
            )
    return found


def _slices(graph: Graph) -> dict[str, list[Slice]]:
    """For every leaf, each (tensor, dim) whose layout contains it."""
    found: dict[str, list[Slice]] = {}
    for tensor, layouts in graph.layouts.items():
        for dim, layout in enumerate(layouts):
            for leaf in layout.names:
                role = graph.roles.get((tensor, dim), "out")
                found.setdefault(leaf, []).append(Slice(tensor, dim, layout, role))
    return found


def positive(unit: str, **values: object) -> None:
    """Raise RecipeError unless every value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RecipeError(
                f"{unit}({name}={value!r}): expected an integer of at least 1",
                hint=f"for example {unit}({name}=1)",
            )
