"""Solves the equations of a run: which axes may change, by how much, and what must follow.

Counts scale together: in a set of axes tied by equations every axis keeps the same share, in steps
of the greatest common divisor of their sizes, so that any equation of degree one holds. Where sizes
are multiplied (`heads * head_dim == width`) all factors but one stay whole. What still fails is
fixed, and the equation says why. Equations are evaluated with numpy, all levels at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import numpy as np

from secateur.core.plan import Reason
from secateur.graph.attributes import Slot
from secateur.graph.axes import Axis
from secateur.graph.sizes import OPERATORS, Equation, Expr, atoms

Counts = Mapping[Axis, Any]  # leaf -> an array of candidate counts
_SAMPLES = 12
_MOST_LEVELS = 65536


@dataclass
class Solution:
    """ties: (leaf -> ratio, allowed levels). drivers: attribute key -> the axis it follows.

    stand_ins: for a leaf that only activations have, one of a parameter that keeps the same share.
    """

    ties: list[tuple[dict[Axis, int], list[int]]] = field(default_factory=list)
    drivers: dict[int, Axis] = field(default_factory=dict)
    stand_ins: dict[Axis, Axis] = field(default_factory=dict)


class _System:
    def __init__(
        self, equations: Iterable[Equation], slots: Mapping[int, Slot], leaves: set[Axis]
    ) -> None:
        self.slots = slots
        self.leaves = leaves
        self.equations = list(equations)
        self.drivers: dict[int, Axis] = {}
        self.constants = {  # attributes that stand for something that cannot change
            side[1]
            for e in self.equations
            for side, other in ((e.left, e.right), (e.right, e.left))
            if isinstance(side, tuple) and side[0] == "attr"
            if not any(kind == "attr" or self._is_free(key) for kind, key in atoms(other))
        }

    def count(self, axis: Axis, counts: Counts) -> Any:
        axis = axis.find()
        if not axis.kind:
            return counts.get(axis, axis.size)
        total: Any = 1 if axis.kind == "product" else 0
        for part in axis.parts:
            n = self.count(part, counts)
            total = total * n if axis.kind == "product" else total + n
        return total

    def value(self, expr: Expr, counts: Counts) -> Any:
        if not isinstance(expr, tuple):
            return expr
        if expr[0] == "count":
            return self.count(expr[1], counts)
        if expr[0] == "attr":
            slot, driver = self.slots[expr[1]], self.drivers.get(expr[1])
            return (
                slot.value
                if driver is None
                else slot.value * self.count(driver, counts) // driver.size
            )
        return OPERATORS[expr[0]](*[self.value(part, counts) for part in expr[1:]])

    def holds(self, equation: Equation, counts: Counts, width: int) -> Any:
        with np.errstate(all="ignore"):
            try:
                left, right = self.value(equation.left, counts), self.value(equation.right, counts)
            except (ZeroDivisionError, OverflowError):
                return np.zeros(width, dtype=bool)
            real = isinstance(left, float) or isinstance(right, float)
            close = np.isclose(left, right, rtol=1e-9, atol=0) if real else np.equal(left, right)
        return np.broadcast_to(close, (width,))

    def leaves_of(self, equation: Equation) -> set[Axis]:
        found: set[Axis] = set()
        for kind, key in [*atoms(equation.left), *atoms(equation.right)]:
            axis = key if kind == "count" else self.drivers.get(key)
            if axis is not None:
                found.update(leaf for leaf in axis.leaves() if leaf in self.leaves)
        return found

    def find_drivers(self) -> None:
        """Let every attribute that sizes a free axis follow that axis."""
        for bare in (True, False):
            for equation in self.equations:
                for side, other in (
                    (equation.left, equation.right),
                    (equation.right, equation.left),
                ):
                    self._drive(side, other, bare)

    def _drive(self, side: Expr, other: Expr, bare: bool) -> None:
        if bare and not (isinstance(side, tuple) and side[0] == "attr"):
            return
        keys = {key for kind, key in atoms(side) if kind == "attr"}
        if keys & self.drivers.keys():
            return
        keys -= self.constants if not bare else set()
        axes = [key for kind, key in atoms(other) if kind == "count" and self._is_free(key)]
        if keys and axes:  # of several (in_channels // num_paths) the largest is the width
            key = max(keys, key=lambda key: self.slots[key].value)
            exact = [axis for axis in axes if axis.size == self.slots[key].value]
            self.drivers[key] = (exact or axes)[0]

    def _is_free(self, axis: Axis) -> bool:
        return any(leaf in self.leaves for leaf in axis.leaves())


def solve(equations: Iterable[Equation], slots: Mapping[int, Slot], leaves: set[Axis]) -> Solution:
    """Group the free leaves into ties; freezes the leaves that cannot change.

    leaves: the free leaf axes of parameters (representatives); those that only activations have
    take part as unknowns. Time is linear in the equations times the levels.
    """
    equations = list(equations)
    owned = leaves
    leaves = owned | _unknowns(equations)
    system = _System(equations, slots, leaves)
    system.find_drivers()
    system.equations = [e for e in system.equations if system.leaves_of(e)]
    rng = np.random.default_rng(0)
    sample = {leaf: rng.integers(1, leaf.size + 1, _SAMPLES) for leaf in _ordered(leaves)}
    binding = [e for e in system.equations if not system.holds(e, sample, _SAMPLES).all()]
    solution = Solution(drivers=system.drivers)
    queue = _components(system, leaves, binding)
    while queue:
        members, rules = queue.pop()
        levels = _levels(system, members, rules)
        if len(levels) > 1 or not rules:
            base = _base(members)
            ratios = {leaf: leaf.size // base for leaf in _ordered(members) if leaf in owned}
            if ratios:
                solution.ties.append((ratios, levels))
                first = next(iter(ratios))
                solution.stand_ins.update(dict.fromkeys(members - owned, first))
            continue
        for leaf, reason in _fix(system, members, rules):
            leaf.freeze(reason)
            leaves.discard(leaf)
        rest = {leaf for leaf in members if leaf in leaves}
        queue += _components(system, rest, [e for e in rules if system.leaves_of(e) & rest])
    return solution


def _unknowns(equations: list[Equation]) -> set[Axis]:
    return {
        leaf
        for equation in equations
        for kind, key in [*atoms(equation.left), *atoms(equation.right)]
        if kind == "count"
        for leaf in key.leaves()
        if leaf.frozen is None and leaf.size > 1
    }


def _ordered(leaves: Iterable[Axis]) -> list[Axis]:
    """In order of creation: results must not depend on where objects lie in memory."""
    return sorted(leaves, key=lambda axis: axis.id)


def _base(members: Iterable[Axis]) -> int:
    return gcd(*[leaf.size for leaf in members])


def _levels(system: _System, members: set[Axis], rules: list[Equation]) -> list[int]:
    base = _base(members)
    levels = np.arange(1, base + 1)[-_MOST_LEVELS:]
    counts = {leaf: leaf.size // base * levels for leaf in members}
    allowed = np.ones(len(levels), dtype=bool)
    for rule in rules:
        allowed &= system.holds(rule, counts, len(levels))
    return [int(level) for level in levels[allowed]] or [base]


def _components(
    system: _System, leaves: set[Axis], rules: list[Equation]
) -> list[tuple[set[Axis], list[Equation]]]:
    group = {leaf: leaf for leaf in leaves}

    def root(leaf: Axis) -> Axis:
        while group[leaf] is not leaf:
            group[leaf] = group[group[leaf]]
            leaf = group[leaf]
        return leaf

    touched = [
        (r, [leaf for leaf in _ordered(system.leaves_of(r)) if leaf in group]) for r in rules
    ]
    for _, members in touched:
        for leaf in members[1:]:
            group[root(members[0])] = root(leaf)
    found: dict[Axis, tuple[set[Axis], list[Equation]]] = {}
    for leaf in _ordered(leaves):
        found.setdefault(root(leaf), (set(), []))[0].add(leaf)
    for rule, members in touched:
        if members:
            found[root(members[0])][1].append(rule)
    return list(found.values())


def _fix(system: _System, members: set[Axis], rules: list[Equation]) -> list[tuple[Axis, Reason]]:
    """The leaves to fix next: factors of products first, else all leaves of the worst equation."""
    allowed = {id(rule): len(_levels(system, members, [rule])) for rule in rules}
    worst = min(allowed.values())
    failing = [rule for rule in rules if allowed[id(rule)] == worst]
    factors: dict[Axis, Reason] = {}
    for rule in failing:
        for axis in _axes_of(system, rule):
            for leaf in _surplus(axis, members):
                text = "its size times another one must match elsewhere, and the other one shrinks"
                factors.setdefault(leaf, Reason(text, rule.what, rule.where))
    if factors:
        return list(factors.items())
    touched = {id(rule): system.leaves_of(rule) & members for rule in failing}
    rule = min(failing, key=lambda rule: len(touched[id(rule)]))
    reason = Reason(_describe(system, rule), rule.what, rule.where)
    leaves = sorted(
        touched[id(rule)], key=lambda leaf: ("batched" in leaf.marks, leaf.size, leaf.id)
    )
    if len(leaves) > 2:  # one leaf may be enough: width // heads == dim holds while dim stays
        for leaf in leaves:
            if len(_levels(system, set(leaves) - {leaf}, [rule])) > 1:
                return [(leaf, reason)]
    return [(leaf, reason) for leaf in leaves]


def _surplus(axis: Axis, members: set[Axis]) -> list[Axis]:
    """All but one of the factors of a product that could shrink; heads shrink rather than dims."""
    factors = {leaf for leaf in _product_leaves(axis) if leaf in members}
    heads = {leaf for leaf in factors if "batched" in leaf.marks}
    if heads and heads != factors and gcd(*[leaf.size for leaf in heads]) > 1:
        return sorted(factors - heads, key=lambda leaf: leaf.id)
    if heads != factors:
        return sorted(heads, key=lambda leaf: leaf.id) or _all_but_largest(factors)
    return _all_but_largest(factors)


def _all_but_largest(factors: set[Axis]) -> list[Axis]:
    ranked = sorted(factors, key=lambda leaf: (-leaf.size, leaf.id))
    return ranked[1:]


def _axes_of(system: _System, rule: Equation) -> list[Axis]:
    found = [
        key if kind == "count" else system.drivers.get(key)
        for kind, key in [*atoms(rule.left), *atoms(rule.right)]
    ]
    return [axis for axis in found if axis is not None]


def _product_leaves(axis: Axis) -> list[Axis]:
    axis = axis.find()
    if axis.kind == "product":
        return axis.leaves()
    return [leaf for part in axis.parts for leaf in _product_leaves(part)]


def _describe(system: _System, rule: Equation) -> str:
    left, right = (_text(system, side) for side in (rule.left, rule.right))
    return f"{rule.what}: {left} must equal {right}"


def _text(system: _System, expr: Expr) -> str:
    if not isinstance(expr, tuple):
        return str(expr)
    if expr[0] == "count":
        return f"an axis of {expr[1].size}"
    if expr[0] == "attr":
        slot = system.slots[expr[1]]
        return f"{slot.module}.{slot.path} = {slot.value}".lstrip(".")
    return f"{expr[0]}({', '.join(_text(system, part) for part in expr[1:])})"
