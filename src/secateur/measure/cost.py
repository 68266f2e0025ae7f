"""Cost: the exact parameters, bytes and multiply-accumulates of any allocation.

Every tensor's size and every operation's work is a product of layout counts, so the whole model
is a sum of monomials in the kept counts. They are compiled once into flat arrays; an evaluation
is a handful of numpy calls. Arithmetic is 64-bit integer where the full model proves that nothing
can overflow, and Python integers otherwise: the result is always exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.parameter import is_lazy

from secateur.core.errors import InputError
from secateur.core.layout import Fixed, Layout
from secateur.core.site import Site
from secateur.graph.graph import Graph
from secateur.measure.program import Counts, Program


@dataclass(frozen=True)
class Amounts:
    """What a model costs: parameters (each once), multiply-accumulates of a run, bytes.

    bytes: parameters and buffers. macs: of one run on the example that the graph was traced with.
    ns: predicted nanoseconds of such a run; 0 where the cost was given no latency table.
    """

    params: int
    macs: int
    bytes: int
    ns: int = field(default=0, repr=False)

    def __sub__(self, other: Amounts) -> Amounts:
        """The difference, amount by amount."""
        return Amounts(
            self.params - other.params,
            self.macs - other.macs,
            self.bytes - other.bytes,
            self.ns - other.ns,
        )


class Timetable(Protocol):
    """Predicts nanoseconds at kept counts; see `secateur.measure.latency_table`."""

    def ns(self, counts: Counts, removed: Iterable[str] = ()) -> Any:
        """An integer, or an array of them where counts are arrays."""


class Cost:
    """The exact cost of a model as a function of kept counts and removed blocks.

    A parameter that is shared under several names counts once, and is gone only when every module
    that owns it is. Tensors that the graph does not know count at their full size.

    table: predicts `Amounts.ns` (a `LatencyTable` of the same graph); otherwise that is 0.

    Example:
        >>> from secateur.core.layout import Leaf
        >>> from secateur.graph.graph import Graph, Term
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2, bias=False))
        >>> hidden = Leaf("0", 8)
        >>> layouts = {
        ...     "0.weight": (hidden, Fixed(4)),
        ...     "0.bias": (hidden,),
        ...     "1.weight": (Fixed(2), hidden),
        ... }
        >>> terms = (Term("0", "linear", 4, (hidden,)), Term("1", "linear", 2, (hidden,)))
        >>> cost = Cost(Graph(layouts, {}, {}, (), (), terms, ()), net)
        >>> cost.total({}), cost.total({"0": 3})
        (Amounts(params=56, macs=48, bytes=224), Amounts(params=21, macs=18, bytes=84))
        >>> cost.total({}, removed=["1"]).params
        40
    """

    def __init__(self, graph: Graph, model: nn.Module, table: Timetable | None = None) -> None:
        self.table = table
        self._program = Program()
        self._entries: list[tuple[int, tuple[str, ...], Amounts]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        for names, layouts, unit in _tensors(graph, model):
            self.shapes |= dict.fromkeys(names, tuple(layout.size for layout in layouts))
            owners = tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))
            self._add(layouts, owners, unit)
        for term in graph.terms:
            self._add(term.layouts, (term.module,), Amounts(0, term.factor, 0))
        self._program.compile(
            [max(1, unit.params, unit.macs, unit.bytes) for _, _, unit in self._entries],
            [index for index, _, _ in self._entries],
        )
        self._weights = lru_cache(maxsize=256)(self._weigh)

    def _add(self, layouts: Sequence[Layout], owners: tuple[str, ...], unit: Amounts) -> None:
        constant, index = self._program.monomial(layouts)
        scaled = Amounts(unit.params * constant, unit.macs * constant, unit.bytes * constant)
        self._entries.append((index, owners, scaled))

    def _weigh(self, removed: frozenset[str]) -> npt.NDArray[Any]:
        """Coefficients of the monomials, shape [3, monomials], without what is removed."""
        table = [[0] * self._program.monomials for _ in range(3)]
        for index, owners, unit in self._entries:
            if not all(_inside(owner, removed) for owner in owners):
                table[0][index] += unit.params
                table[1][index] += unit.macs
                table[2][index] += unit.bytes
        return np.array(table, dtype=self._program.dtype).reshape(3, self._program.monomials)

    def total(self, counts: Mapping[str, int], removed: Iterable[str] = ()) -> Amounts:
        """The cost when leaf `name` keeps `counts[name]` (default: all) and blocks are removed."""
        values = self._program.run(counts)
        gone = frozenset(removed)
        params, macs, size = self._weights(gone) @ values
        ns = 0 if self.table is None else int(self.table.ns(counts, gone))
        return Amounts(int(params), int(macs), int(size), ns)

    def totals(
        self, counts: Counts, removed: Iterable[str] = ()
    ) -> dict[str, npt.NDArray[np.float64]]:
        """The amounts by name at many points at once: counts may be arrays of one length `b`.

        Returns arrays `[b]` of floats, exact up to 2**53. Memory: `b` times the model's distinct
        tensor shapes.
        """
        gone = frozenset(removed)
        values = self._weights(gone) @ self._program.run(counts)
        found = dict(zip(("params", "macs", "bytes"), values.astype(np.float64), strict=True))
        ns = 0 if self.table is None else self.table.ns(counts, gone)
        found["ns"] = np.broadcast_to(np.asarray(ns, dtype=np.float64), found["params"].shape)
        return found

    def index(
        self, site: Site, counts: Mapping[str, int] | None = None, removed: Iterable[str] = ()
    ) -> Amounts:
        """What one more removed index of a site saves at the given counts."""
        here, gone = dict(counts or {}), frozenset(removed)
        before = self.total(here, gone)
        if site.module is not None:
            return before - self.total(here, gone | {site.module})
        here[site.name] = here.get(site.name, site.n) - 1
        return before - self.total(here, gone)

    def by_module(
        self, counts: Mapping[str, int] | None = None, removed: Iterable[str] = ()
    ) -> dict[str, Amounts]:
        """Cost by owning module, in the model's order; a shared tensor counts at its first."""
        values = self._program.run(counts or {})
        gone = frozenset(removed)
        table: dict[str, list[int]] = {}
        for index, owners, unit in self._entries:
            alive = [owner for owner in owners if not _inside(owner, gone)]
            if alive:
                row, value = table.setdefault(alive[0], [0, 0, 0]), int(values[index])
                row[0] += unit.params * value
                row[1] += unit.macs * value
                row[2] += unit.bytes * value
        return {module: Amounts(*row) for module, row in table.items()}


def _inside(module: str, removed: frozenset[str]) -> bool:
    """Whether a module is one of the removed blocks or below one."""
    return any(module == block or module.startswith(block + ".") for block in removed)


def _tensors(
    graph: Graph, model: nn.Module
) -> Iterable[tuple[list[str], tuple[Layout, ...], Amounts]]:
    """Every distinct tensor: its names, its layouts, and what one element costs."""
    seen: dict[int, tuple[list[str], Amounts, tuple[int, ...]]] = {}
    for is_parameter, named in ((1, model.named_parameters), (0, model.named_buffers)):
        for name, tensor in named(remove_duplicate=False):
            if is_lazy(tensor):
                raise InputError(
                    f"{name} has no shape yet", hint="run the lazy model once on an example"
                )
            unit = Amounts(is_parameter, 0, tensor.element_size())
            seen.setdefault(id(tensor), ([], unit, tuple(tensor.shape)))[0].append(name)
    for names, unit, shape in seen.values():
        known = next((graph.layouts[name] for name in names if name in graph.layouts), None)
        layouts = tuple(map(Fixed, shape)) if known is None else known
        if tuple(layout.size for layout in layouts) != shape:
            raise InputError(
                f"the graph was traced with another {names[0]}: "
                f"{tuple(layout.size for layout in layouts)}, not {shape}",
                hint="trace the model again after changing it",
            )
        yield names, layouts, unit
