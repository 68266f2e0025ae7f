"""Inspection: what can go from a model, how much of it that is, and what stays and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Protocol

from secateur.core.layout import Layout
from secateur.core.measured import Frozen, Measured, frozen_lines
from secateur.core.page import Line, Page, Table, plain, plural
from secateur.core.plan import Reason
from secateur.core.site import Site

_BIGGEST = 5


class FrozenAxis(Protocol):
    """An axis that may be frozen."""

    @property
    def frozen(self) -> Reason | None:
        """Why it stays, or None."""
        ...


class Structure(Protocol):
    """What an inspection reads of a graph."""

    @property
    def layouts(self) -> Mapping[str, tuple[Layout, ...]]:
        """Tensor name -> one layout a dimension."""
        ...

    @property
    def roles(self) -> Mapping[tuple[str, int], str]:
        """(tensor, dimension) -> role; "buffer" means that it is not a parameter."""
        ...

    @property
    def axes(self) -> Mapping[str, FrozenAxis]:
        """Every axis by name."""
        ...

    @property
    def unknown(self) -> Mapping[str, Reason]:
        """What is not understood, and why."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the reader."""
        ...


@dataclass(frozen=True)
class Place:
    """One site: its indices, and the parameters of the tensors that they cross."""

    name: str
    unit: str
    what: str
    n: int
    params: int


@dataclass(frozen=True)
class Kind:
    """All sites of one unit. params: of the distinct tensors that they cross."""

    unit: str
    sites: int
    indices: int
    params: int
    biggest: Place


@dataclass(frozen=True)
class Inspection:
    """What can be removed from a model; `print(inspection)` answers at a glance."""

    name: str
    whole: Measured
    kinds: tuple[Kind, ...]
    biggest: tuple[Place, ...]
    frozen: tuple[Frozen, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, whole: Measured, sites: Sequence[Site], graph: Structure) -> Inspection:
        """Sum up sites and a graph."""
        sizes = _parameter_sizes(graph)
        crossed = {site.name: _crossed(site, sizes) for site in sites}
        places = [
            Place(s.name, s.unit, s.what, s.n, sum(sizes[t] for t in crossed[s.name]))
            for s in sites
        ]
        kinds = []
        for unit in dict.fromkeys(place.unit for place in places):
            mine = [place for place in places if place.unit == unit]
            tensors = set().union(*(crossed[place.name] for place in mine))
            params = min(whole.params, sum(sizes[tensor] for tensor in tensors))
            top = max(mine, key=lambda place: place.params)
            kinds.append(Kind(unit, len(mine), sum(p.n for p in mine), params, top))
        ranked = sorted(places, key=lambda place: -place.params)
        reasons = [axis.frozen for axis in graph.axes.values() if axis.frozen is not None]
        frozen = Frozen.group([*reasons, *graph.unknown.values()])
        return cls(name, whole, tuple(kinds), tuple(ranked[:_BIGGEST]), frozen, graph.notes)

    @property
    def page(self) -> Page:
        """What is printed."""
        items: list[Line | Table] = [Line(f"{self.name}: {self.whole.summary}", title=True)]
        if self.kinds:
            rows = tuple(
                (
                    f"{kind.unit}s",
                    f"{kind.sites:,}",
                    f"{kind.indices:,}",
                    f"{kind.params / max(self.whole.params, 1):.0%}",
                    f"{kind.biggest.name} ({plural(kind.biggest.n, kind.biggest.what)})",
                )
                for kind in self.kinds
            )
            heads = ("can go", "sites", "indices", "of parameters", "biggest")
            items.append(Table(heads, rows, frozenset({0, 4})))
        else:
            items.append(Line("nothing can be removed", "warn"))
        if len(self.biggest) > 1:
            items.append(Table(("biggest sites", "indices", "parameters"), self._biggest_rows()))
        items += frozen_lines(self.frozen, "axis")
        items += [Line(f"note: {note}", "warn") for note in self.notes]
        return tuple(items)

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def _biggest_rows(self) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (place.name, plural(place.n, place.what), f"{place.params:,}") for place in self.biggest
        )


def _parameter_sizes(graph: Structure) -> dict[str, int]:
    """Elements of every parameter."""
    return {
        name: prod(layout.size for layout in layouts)
        for name, layouts in graph.layouts.items()
        if layouts and graph.roles.get((name, 0)) != "buffer"
    }


def _crossed(site: Site, sizes: Mapping[str, int]) -> set[str]:
    """The parameters that a site's removal makes smaller."""
    if site.module is not None:
        return {name for name in sizes if name.startswith(site.module + ".")}
    return {part.tensor for part in site.slices if part.tensor in sizes}
