"""Allocators: in which order the steps down all ladders are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from secateur.allocate.ladder import Ladder, Vector
from secateur.core.registry import Registry, wears
from secateur.core.site import Site

Order = Callable[[Sequence[Ladder]], Sequence[Vector]]


@dataclass(frozen=True)
class Allocator:
    """A rule that gives every step down a ladder a key; steps are taken in ascending order.

    function: ladders -> for each, keys of shape `[levels - 1]`, first step down first. sparsity:
    whether `Sparsity(.5)` means half of every site ("each") or half of all units ("total").
    """

    name: str
    function: Order
    sparsity: Literal["each", "total"] = "total"
    paper: str = ""

    def __post_init__(self) -> None:
        """Show the function's own documentation."""
        wears(self, self.function)

    def __call__(self, ladders: Sequence[Ladder]) -> list[Vector]:
        """The keys, made non-decreasing along every ladder."""
        return [np.maximum.accumulate(keys) for keys in self.function(ladders)]


allocators: Registry[Any] = Registry("allocator")


def allocator(
    *names: str, sparsity: Literal["each", "total"] = "total", paper: str = ""
) -> Callable[[Order], Allocator]:
    """Decorator: register an order of steps under one or more names."""

    def register(function: Order) -> Allocator:
        made = Allocator(names[0] if names else "", function, sparsity, paper)
        allocators.add(*names)(made)
        return made

    return register


def resolve(given: str | Order) -> Allocator:
    """An allocator from its name or from a plain function `ladders -> keys`."""
    found = allocators.get(given)
    if isinstance(found, Allocator):
        return found
    return Allocator(getattr(found, "__name__", type(found).__name__), found)


@allocator("uniform", sparsity="each", paper="Zhu & Gupta, To Prune, or Not to Prune, 2017")
def uniform(ladders: Sequence[Ladder]) -> list[Vector]:
    """Every tie keeps the same fraction: the fullest ladder steps down next."""
    return [-np.array(ladder.levels[:0:-1], dtype=np.float64) / ladder.top for ladder in ladders]


@allocator("global", paper="Liu et al., Learning Efficient Networks (Slimming), ICCV 2017")
def global_(ladders: Sequence[Ladder]) -> list[Vector]:
    """One threshold for all: the step whose removed indices score least on average is next.

    Scores are divided by their site's mean, so 1 is what an average index of a site is worth;
    those of a criterion that is comparable between sites (Taylor) by the mean of all sites.
    """
    return [ladder.steps() for ladder in ladders]


@allocator("isomorphic", paper="Fang et al., Isomorphic Pruning for Vision Models, ECCV 2024")
def isomorphic(ladders: Sequence[Ladder]) -> list[Vector]:
    """One threshold for each class of alike structures; all classes lose the same fraction.

    Two ties are alike when their sites have the same roles on the same kinds of tensors.
    """
    classes: dict[object, list[int]] = {}
    for number, ladder in enumerate(ladders):
        classes.setdefault(_signature(ladder), []).append(number)
    keys: list[Vector] = [np.zeros(0)] * len(ladders)
    for members in classes.values():
        steps = [ladders[number].steps() for number in members]
        sizes = [_removed(ladders[number]) for number in members]
        fuller = np.concatenate(uniform.function([ladders[number] for number in members]))
        order = np.lexsort((fuller, np.concatenate(steps)))
        gone = np.empty(len(order))
        gone[order] = np.cumsum(np.concatenate(sizes)[order])
        gone /= max(1, sum(ladders[number].units(ladders[number].top) for number in members))
        parts = np.split(gone, np.cumsum([len(step) for step in steps])[:-1])
        for number, part in zip(members, parts, strict=True):
            keys[number] = part
    return keys


def _removed(ladder: Ladder) -> Vector:
    """How many indices every step removes."""
    per_level = sum(member.ratio for member in ladder.members)
    return -np.diff(np.array(ladder.levels[::-1], dtype=np.float64)) * per_level


def _signature(ladder: Ladder) -> object:
    return ladder.blocks, tuple(sorted(map(_kind, (member.site for member in ladder.members))))


def _kind(site: Site) -> tuple[object, ...]:
    """What makes two sites alike: roles and kinds of tensors, but not names or how many."""
    slices = {
        (part.role, part.tensor.rpartition(".")[2], part.dim, type(part.layout).__name__)
        for part in site.slices
    }
    return site.unit, site.what, site.statistical, tuple(sorted(slices))
