"""Allocators: in which order the steps down all ladders are taken, or how many each takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from secateur.allocate.ladder import Ladder, Vector
from secateur.core.layout import Index
from secateur.core.registry import Registry, wears

if TYPE_CHECKING:
    from secateur.allocate.problem import Problem

Order = Callable[[Sequence[Ladder]], Sequence[Vector]]
Choose = Callable[["Problem"], Index]


@dataclass(frozen=True)
class Allocator:
    """A rule that gives every step down a ladder a key; steps are taken in ascending order.

    function: ladders -> for each, keys of shape `[levels - 1]`, first step down first. sparsity:
    whether `Sparsity(.5)` means half of every site ("each") or half of all units ("total").
    choose: where an order is not enough, how many steps down every ladder goes, `[ladders]`; what
    it returns must fit the problem's ceilings, and no step more may.
    """

    name: str
    function: Order
    sparsity: Literal["each", "total"] = "total"
    paper: str = ""
    choose: Choose | None = None

    def __post_init__(self) -> None:
        """Show the function's own documentation."""
        wears(self, self.function)

    def __call__(self, ladders: Sequence[Ladder]) -> list[Vector]:
        """The keys, made non-decreasing along every ladder."""
        return [np.maximum.accumulate(keys) for keys in self.function(ladders)]


allocators: Registry[Any] = Registry("allocator")


def allocator(
    *names: str,
    sparsity: Literal["each", "total"] = "total",
    paper: str = "",
    choose: Choose | None = None,
) -> Callable[[Order], Allocator]:
    """Decorator: register an order of steps under one or more names."""

    def register(function: Order) -> Allocator:
        made = Allocator(names[0] if names else "", function, sparsity, paper, choose)
        allocators.add(*names)(made)
        return made

    return register


def resolve(given: str | Order) -> Allocator:
    """An allocator from its name or from a plain function `ladders -> keys`."""
    found = allocators.get(given)
    if isinstance(found, Allocator):
        return found
    return Allocator(getattr(found, "__name__", type(found).__name__), found)
