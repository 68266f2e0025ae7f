"""The growing form of the axis algebra: leaves that unify, factor and split while a model runs.

An axis is a leaf, a product of axes (row-major) or a concatenation of axes. Operations only rename
axes or unify them; union-find does the rest. What cannot be expressed freezes, with a reason.
When the run is over, `to_layout` turns axes into the immutable layouts of `core/layout.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import prod

from secateur.core.plan import Reason

_ids = count()
_EMPTY: frozenset[str] = frozenset()
GEOMETRY = "geometry"  # the operation of a reason that goes without saying


class Axis:
    """The identity of one dimension of one tensor.

    kind: "" (a leaf), "product" or "concat". marks: words about a leaf ("head", "statistical").
    anonymous: all indices hold the same constant, so that only the count matters; unifying such a
    leaf calls `on_count(a, b)` instead of merging the identities.
    """

    __slots__ = ("alias", "frozen", "id", "kind", "marks", "on_count", "parts", "size")

    def __init__(self, size: int, kind: str = "", parts: Sequence[Axis] = ()) -> None:
        self.size = size
        self.kind = kind
        self.parts = tuple(parts)
        self.alias: Axis | None = None
        self.frozen: Reason | None = None
        self.marks: frozenset[str] = _EMPTY
        self.on_count: Callable[[Axis, Axis], None] | None = None
        self.id = next(_ids)

    def find(self) -> Axis:
        """The representative of this axis."""
        root = self
        while root.alias is not None:
            root = root.alias
        while self.alias is not None:
            self.alias, self = root, self.alias  # path compression
        return root

    def leaves(self) -> list[Axis]:
        """The leaves in order; a leaf may come more than once."""
        found: list[Axis] = []
        stack: list[Axis] = [self]
        while stack:
            axis = stack.pop().find()
            if axis.kind:
                stack.extend(axis.parts[::-1])
            else:
                found.append(axis)
        return found

    def freeze(self, reason: Reason) -> None:
        """Forbid removal of any index; the first reason stays."""
        for leaf in self.leaves():
            leaf.frozen = leaf.frozen or reason

    def mark(self, word: str) -> None:
        """Tag all leaves."""
        for leaf in self.leaves():
            leaf.marks |= {word}

    @property
    def free(self) -> bool:
        """Whether any index may still be removable."""
        return any(leaf.frozen is None and leaf.size > 1 for leaf in self.leaves())

    def __repr__(self) -> str:
        axis = self.find()
        if not axis.kind:
            return f"a{axis.id}[{axis.size}]" + ("!" if axis.frozen else "")
        return "(" + ("*" if axis.kind == "product" else "+").join(map(repr, axis.parts)) + ")"


def fixed(size: int, reason: Reason | None = None) -> Axis:
    """A new leaf that is frozen from the start (unless it has one index, which needs no reason)."""
    axis = Axis(size)
    if reason is not None and size != 1:
        axis.frozen = reason
    return axis


def _flat(parts: Iterable[Axis], kind: str) -> list[Axis]:
    flat: list[Axis] = []
    for part in parts:
        axis = part.find()
        flat.extend(_flat(axis.parts, kind) if axis.kind == kind else [axis])
    return flat


def product(parts: Iterable[Axis]) -> Axis:
    """Row-major product; factors of one index vanish."""
    flat = [axis for axis in _flat(parts, "product") if axis.size != 1]
    if len(flat) == 1:
        return flat[0]
    return Axis(prod(axis.size for axis in flat), "product" if flat else "", flat)


def concat(parts: Iterable[Axis]) -> Axis:
    """Parts one after the other; empty parts vanish."""
    flat = [axis for axis in _flat(parts, "concat") if axis.size != 0]
    if len(flat) == 1:
        return flat[0]
    return Axis(sum(axis.size for axis in flat), "concat" if flat else "", flat)


def _become(leaf: Axis, other: Axis) -> None:
    if any(inner is leaf for inner in other.leaves()):
        other.freeze(Reason("an axis would contain itself"))
        return
    for inner in other.leaves():
        inner.marks |= leaf.marks
        if leaf.frozen is None:
            continue
        if inner.frozen is None or inner.frozen.op == GEOMETRY:  # the more telling reason stays
            inner.frozen = leaf.frozen
    leaf.alias = other


def unify(a: Axis, b: Axis) -> None:
    """Make two axes of equal size the same axis; freezes both where that cannot be expressed.

    Raises:
        ValueError: The sizes differ.
    """
    a, b = a.find(), b.find()
    if a is b or a.size == b.size == 1:
        return
    if a.size != b.size:
        raise ValueError(f"cannot unify axes of {a.size} and {b.size} indices")
    for x, y in ((a, b), (b, a)):
        if x.on_count is not None:
            x.on_count(x, y)
            return
    if not a.kind:
        _become(a, b)
    elif not b.kind:
        _become(b, a)
    elif a.kind == b.kind == "product":
        _unify_products(a, b)
    elif a.kind == b.kind == "concat":
        _unify_concats(a, b)
    else:
        joined, other = (a, b) if a.kind == "concat" else (b, a)
        parts = _flat(joined.parts, "concat")
        pieces = split(other, [part.size for part in parts])
        if pieces is None:
            _incompatible(a, b, "a product and a concatenation that do not line up")
            return
        for part, piece in zip(parts, pieces, strict=True):
            unify(part, piece)


def _incompatible(a: Axis, b: Axis, what: str) -> None:
    reason = Reason(f"two views of one axis cannot be reconciled: {what}")
    a.freeze(reason)
    b.freeze(reason)


def _unify_products(a: Axis, b: Axis) -> None:
    left, right = _flat(a.parts, "product"), _flat(b.parts, "product")
    while left and right:
        x, y = left.pop(0).find(), right.pop(0).find()
        if x.kind == "product":
            left[:0] = _flat([x], "product")
            right.insert(0, y)
            continue
        if y.kind == "product":
            right[:0] = _flat([y], "product")
            left.insert(0, x)
            continue
        if x.size == y.size:
            unify(x, y)
            continue
        big, small, rest = (x, y, left) if x.size > y.size else (y, x, right)
        factors = (
            factor(big, [small.size, big.size // small.size])
            if big.size % small.size == 0
            else None
        )
        if factors is None:
            _incompatible(a, b, "products with different factors")
            return
        unify(factors[0], small)
        rest.insert(0, factors[1])


def _unify_concats(a: Axis, b: Axis) -> None:
    left, right = _flat(a.parts, "concat"), _flat(b.parts, "concat")
    while left and right:
        x, y = left.pop(0).find(), right.pop(0).find()
        if x.size == y.size:
            unify(x, y)
            continue
        big, small, rest = (x, y, left) if x.size > y.size else (y, x, right)
        pieces = split(big, [small.size, big.size - small.size])
        if pieces is None:
            _incompatible(a, b, "concatenations with different seams")
            return
        unify(pieces[0], small)
        rest.insert(0, pieces[1])


def split(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """Consecutive pieces of the given sizes (they add up to the axis), or None where impossible.

    A product splits only between indices of its first factor.
    """
    axis = axis.find()
    if len(sizes) == 1:
        return [axis]
    if not axis.kind:
        if axis.on_count is not None:  # pieces of a constant are constants
            pieces = [Axis(size) for size in sizes]
            for piece in pieces:
                piece.on_count = axis.on_count
            axis.on_count(axis, concat(pieces))
            return pieces
        pieces = [Axis(size) for size in sizes]
        _become(axis, concat(pieces))
        return pieces
    if axis.kind == "concat":
        return _split_concat(axis, sizes)
    first, *inner = _flat(axis.parts, "product")
    width = axis.size // first.size
    if any(size % width for size in sizes):
        return None
    heads = split(first, [size // width for size in sizes])
    return None if heads is None else [product([head, *inner]) for head in heads]


def _split_concat(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    queue = _flat(axis.parts, "concat")
    pieces: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        need = size
        while need:
            part = queue.pop(0).find()
            if part.kind == "concat":
                queue[:0] = _flat([part], "concat")
                continue
            if part.size > need:
                halves = split(part, [need, part.size - need])
                if halves is None:
                    return None
                part = halves[0]
                queue.insert(0, halves[1])
            taken.append(part)
            need -= part.size
        pieces.append(concat(taken) if taken else Axis(0))
    return pieces


def factor(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """Row-major factors of the given sizes, which multiply to the axis, or None if impossible."""
    axis = axis.find()
    real = [size for size in sizes if size != 1]
    if len(real) <= 1:
        return [axis if size != 1 else Axis(1) for size in sizes]
    if not axis.kind:
        factors = [Axis(size) for size in sizes]
        if axis.on_count is not None:
            for new in factors:
                new.on_count = axis.on_count
            axis.on_count(axis, product(factors))
            return factors
        _become(axis, product(factors))
        return factors
    if axis.kind == "concat":
        return _factor_concat(axis, sizes)
    queue = _flat(axis.parts, "product")
    out: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        need = size
        while need > 1:
            part = queue.pop(0).find()
            if part.kind == "product":
                queue[:0] = _flat([part], "product")
                continue
            if need % part.size == 0:
                taken.append(part)
                need //= part.size
                continue
            halves = factor(part, [need, part.size // need]) if part.size % need == 0 else None
            if halves is None:
                return None
            taken.append(halves[0])
            queue.insert(0, halves[1])
            need = 1
        out.append(product(taken) if taken else Axis(1))
    return out


def _factor_concat(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """Factor (outer, inner): every part becomes outer_i x inner with one common inner axis."""
    position, outer = next((i, size) for i, size in enumerate(sizes) if size != 1)
    inner = axis.size // outer
    parts = _flat(axis.parts, "concat")
    if all(part.size % inner == 0 for part in parts):
        outers, inners = [], []
        for part in parts:
            pair = factor(part, [part.size // inner, inner])
            if pair is None:
                return None
            outers.append(pair[0])
            inners.append(pair[1])
        rows = concat(outers)
    else:
        folded = _split_concat(axis, [inner] * outer)
        if folded is None:
            return None
        rows, inners = (
            fixed(outer, Reason("a concatenation seen as a stack of equal parts")),
            folded,
        )
    for other in inners[1:]:
        unify(inners[0], other)
    rest = factor(inners[0], sizes[position + 1 :]) if len(sizes) > position + 1 else []
    if rest is None:
        return None
    return [Axis(1)] * position + [rows] + rest
