"""Cost: the exact parameters, bytes and multiply-accumulates of any allocation.

Every tensor's size and every operation's work is a product of layout counts, so the whole model
is a sum of monomials in the kept counts. They are compiled once into flat arrays; an evaluation
is a handful of numpy calls. Arithmetic is 64-bit integer where the full model proves that nothing
can overflow, and Python integers otherwise: the result is always exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.parameter import is_lazy

from secateur.core.errors import InputError
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Product
from secateur.core.site import Site
from secateur.graph.graph import Graph

_SAFE = 2**62


@dataclass(frozen=True)
class Amounts:
    """What a model costs: parameters (each once), multiply-accumulates of a run, bytes.

    bytes: parameters and buffers. macs: of one run on the example that the graph was traced with.
    """

    params: int
    macs: int
    bytes: int

    def __sub__(self, other: Amounts) -> Amounts:
        """The difference, amount by amount."""
        return Amounts(self.params - other.params, self.macs - other.macs, self.bytes - other.bytes)


class Cost:
    """The exact cost of a model as a function of kept counts and removed blocks.

    A parameter that is shared under several names counts once, and is gone only when every module
    that owns it is. Tensors that the graph does not know count at their full size.

    Example:
        >>> from secateur.graph.graph import Axis, Graph, Term
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

    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self._program = _Program()
        self._entries: list[tuple[int, tuple[str, ...], Amounts]] = []
        for names, layouts, unit in _tensors(graph, model):
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
        params, macs, size = self._weights(frozenset(removed)) @ values
        return Amounts(int(params), int(macs), int(size))

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


class _Program:
    """Layout counts as flat arrays, evaluated depth by depth, and the monomials over them.

    Node 0 is the constant 1. Products and concatenations hold their children's nodes; those of one
    depth are evaluated together with one gather and one `reduceat`.
    """

    def __init__(self) -> None:
        self._nodes: dict[Layout, int] = {}
        self._sizes: list[int] = [1]
        self._depths: list[int] = [0]
        self._leaves: dict[str, int] = {}
        self._composite: dict[tuple[int, bool], list[tuple[int, list[int]]]] = {}
        self._monomials: dict[tuple[int, ...], int] = {}

    @property
    def monomials(self) -> int:
        """How many distinct monomials there are."""
        return len(self._monomials)

    def monomial(self, layouts: Sequence[Layout]) -> tuple[int, int]:
        """(constant factor, number) of the product of the layouts' counts."""
        constant = prod(layout.size for layout in layouts if not layout.names)
        nodes = tuple(sorted(self._node(layout) for layout in layouts if layout.names)) or (0,)
        return constant, self._monomials.setdefault(nodes, len(self._monomials))

    def _node(self, layout: Layout) -> int:
        if layout in self._nodes:
            return self._nodes[layout]
        children: list[int] = []
        if isinstance(layout, (Product, Concat)):
            children = [self._node(part) for part in layout.parts]
        node = len(self._sizes)
        self._nodes[layout] = node
        self._sizes.append(layout.size)
        self._depths.append(1 + max((self._depths[child] for child in children), default=-1))
        if isinstance(layout, Leaf):
            if self._leaves.setdefault(layout.name, node) != node:
                raise InputError(f"the axis {layout.name} has two sizes in the graph")
        elif children:
            key = (self._depths[node], isinstance(layout, Product))
            self._composite.setdefault(key, []).append((node, children))
        return node

    def compile(self, coefficients: Sequence[int], monomials: Sequence[int]) -> None:
        """Freeze into arrays, in 64-bit integers if the full model's totals fit, else objects."""
        table = list(self._monomials)
        full = [prod(self._sizes[node] for node in nodes) for nodes in table]
        worst = sum(c * full[m] for c, m in zip(coefficients, monomials, strict=True))
        self.dtype = np.dtype(np.int64 if max([worst, *self._sizes]) < _SAFE else object)
        self._start = np.array(self._sizes, dtype=self.dtype)
        steps = sorted(self._composite.items())
        self._steps = [
            (product, np.array([node for node, _ in group]), *_ragged([c for _, c in group]))
            for (_, product), group in steps
        ]
        self._gather, self._offsets = _ragged([list(nodes) for nodes in table])

    def run(self, counts: Mapping[str, int]) -> npt.NDArray[Any]:
        """The value of every monomial at the given leaf counts."""
        values = self._start.copy()
        for name, count in counts.items():
            node = self._leaves.get(name)
            if node is not None:
                if not 0 <= count <= self._sizes[node]:
                    raise InputError(f"{name} cannot keep {count} of {self._sizes[node]} indices")
                values[node] = count
        for product, nodes, gather, offsets in self._steps:
            reduce = np.multiply if product else np.add
            values[nodes] = reduce.reduceat(values[gather], offsets)
        if not len(self._offsets):
            return np.zeros(0, dtype=self.dtype)
        return np.multiply.reduceat(values[self._gather], self._offsets)


def _ragged(lists: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lists end to end, and where each starts; every list must have something in it."""
    lengths = [len(items) for items in lists]
    flat = np.array([item for items in lists for item in items], dtype=np.int64)
    return flat, np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lists)]
