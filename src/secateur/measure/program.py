"""Kept counts of leaves to the values of monomials: flat arrays, one point or many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from secateur.core.errors import InputError
from secateur.core.layout import Concat, Layout, Leaf, Product

_SAFE = 2**62
Counts = Mapping[str, "int | npt.NDArray[np.int64]"]


class Program:
    """Layout counts as flat arrays, evaluated depth by depth, and the monomials over them.

    Node 0 is the constant 1. Products and concatenations hold their children's nodes; those of one
    depth are evaluated together with one gather and one `reduceat`.

    Example:
        >>> program = Program()
        >>> a, b = Leaf("a", 4), Leaf("b", 6)
        >>> program.monomial([a, b, Product((a, b))]), program.monomial([a])
        ((1, 0), (1, 1))
        >>> program.compile([1, 1], [0, 1])
        >>> program.run({"a": 2}), program.run({"a": np.array([1, 2]), "b": 1})
        (array([144,   2]), array([[1, 4],
               [1, 2]]))
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

    def run(self, counts: Counts) -> npt.NDArray[Any]:
        """The value of every monomial at the given leaf counts, `[monomials]`.

        Where counts are arrays of one length `b`, all points at once: `[monomials, b]`.
        """
        many = np.broadcast_shapes(*(np.shape(count) for count in counts.values()))
        values = np.empty((len(self._start), *many), dtype=self.dtype)
        values[...] = self._start.reshape(-1, *[1] * len(many))
        for name, count in counts.items():
            node = self._leaves.get(name)
            if node is not None:
                given = np.asarray(count)
                bad = (given < 0) | (given > self._sizes[node])
                if bad.any():
                    raise InputError(
                        f"{name} cannot keep {given[bad].flat[0]} of {self._sizes[node]} indices"
                    )
                values[node] = count
        for product, nodes, gather, offsets in self._steps:
            reduce = np.multiply if product else np.add
            values[nodes] = reduce.reduceat(values[gather], offsets, axis=0)
        if not len(self._offsets):
            return np.zeros((0, *many), dtype=self.dtype)
        return np.multiply.reduceat(values[self._gather], self._offsets, axis=0)


def _ragged(lists: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lists end to end, and where each starts; every list must have something in it."""
    lengths = [len(items) for items in lists]
    flat = np.array([item for items in lists for item in items], dtype=np.int64)
    return flat, np.cumsum([0, *lengths[:-1]], dtype=np.int64)[: len(lists)]
