"""What a tensor dimension is made of: leaves, their products and concatenations.

This is the frozen form of the axis algebra (the growing form is `graph/axes.py`).
Keep-masks compose by themselves: keep(product) is the Kronecker product of the parts' masks,
keep(concatenation) their concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """One dimension of one tensor, as a leaf, a fixed size, a product or a concatenation.

    Example:
        >>> heads, dim = Leaf("heads", 2), Leaf("dim", 3)
        >>> inner = Product((heads, dim))
        >>> inner.size, inner.count({"heads": 1})
        (6, 3)
        >>> inner.keep({"dim": np.array([True, False, True])}).astype(int)
        array([1, 0, 1, 1, 0, 1])
    """

    @property
    def size(self) -> int:
        """The number of indices before anything is removed."""
        raise NotImplementedError

    def count(self, counts: Mapping[str, int]) -> int:
        """The number of indices left when leaf `name` keeps `counts[name]` (default: all)."""
        raise NotImplementedError

    def keep(self, keeps: Mapping[str, Mask]) -> Mask:
        """The boolean keep-mask, shape `[size]`, given those of the leaves (default: all)."""
        raise NotImplementedError

    def coordinate(self, leaf: str) -> Index:
        """For every position, the index of `leaf` it belongs to, or -1; shape `[size]`."""
        raise NotImplementedError

    def leaves(self) -> Iterator[Leaf]:
        """The leaves in order; a leaf may come more than once."""
        raise NotImplementedError

    def to_json(self) -> Any:
        """An int, a leaf's name, `{"product": [...]}` or `{"concat": [...]}`."""
        raise NotImplementedError

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the leaves."""
        return frozenset(leaf.name for leaf in self.leaves())


@dataclass(frozen=True)
class Fixed(Layout):
    """`n` indices of which none can be removed."""

    n: int

    @property
    def size(self) -> int:
        return self.n

    def count(self, counts: Mapping[str, int]) -> int:
        return self.n

    def keep(self, keeps: Mapping[str, Mask]) -> Mask:
        return np.ones(self.n, dtype=np.bool_)

    def coordinate(self, leaf: str) -> Index:
        return np.full(self.n, -1, dtype=np.int64)

    def leaves(self) -> Iterator[Leaf]:
        return iter(())

    def to_json(self) -> Any:
        return self.n


@dataclass(frozen=True)
class Leaf(Layout):
    """`n` free indices, known by a name."""

    name: str
    n: int

    @property
    def size(self) -> int:
        return self.n

    def count(self, counts: Mapping[str, int]) -> int:
        return counts.get(self.name, self.n)

    def keep(self, keeps: Mapping[str, Mask]) -> Mask:
        mask = keeps.get(self.name)
        return np.ones(self.n, dtype=np.bool_) if mask is None else mask

    def coordinate(self, leaf: str) -> Index:
        if leaf == self.name:
            return np.arange(self.n, dtype=np.int64)
        return np.full(self.n, -1, dtype=np.int64)

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def to_json(self) -> Any:
        return self.name


@dataclass(frozen=True)
class Product(Layout):
    """Row-major product of parts, as `view(heads, dim)` read backwards."""

    parts: tuple[Layout, ...]

    @property
    def size(self) -> int:
        return prod(part.size for part in self.parts)

    def count(self, counts: Mapping[str, int]) -> int:
        return prod(part.count(counts) for part in self.parts)

    def keep(self, keeps: Mapping[str, Mask]) -> Mask:
        mask = np.ones(1, dtype=np.bool_)
        for part in self.parts:
            mask = np.logical_and.outer(mask, part.keep(keeps)).reshape(-1)
        return mask

    def coordinate(self, leaf: str) -> Index:
        found = np.full(1, -1, dtype=np.int64)
        for part in self.parts:
            inner = part.coordinate(leaf)
            found = np.maximum.outer(found, inner).reshape(-1)
        return found

    def leaves(self) -> Iterator[Leaf]:
        for part in self.parts:
            yield from part.leaves()

    def to_json(self) -> Any:
        return {"product": [part.to_json() for part in self.parts]}


@dataclass(frozen=True)
class Concat(Layout):
    """Parts one after the other, as `cat` makes and `split` takes apart."""

    parts: tuple[Layout, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def count(self, counts: Mapping[str, int]) -> int:
        return sum(part.count(counts) for part in self.parts)

    def keep(self, keeps: Mapping[str, Mask]) -> Mask:
        return np.concatenate([part.keep(keeps) for part in self.parts])

    def coordinate(self, leaf: str) -> Index:
        return np.concatenate([part.coordinate(leaf) for part in self.parts])

    def leaves(self) -> Iterator[Leaf]:
        for part in self.parts:
            yield from part.leaves()

    def to_json(self) -> Any:
        return {"concat": [part.to_json() for part in self.parts]}
