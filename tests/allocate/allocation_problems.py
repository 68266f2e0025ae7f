"""Random small problems: chains of layers with ties, multiples, floors and blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.core.layout import Fixed, Leaf
from secateur.core.site import Site, Slice, Tie
from secateur.graph.graph import Graph, Term
from secateur.measure.cost import Cost


@dataclass(frozen=True)
class Problem:
    """All that `allocate` takes but the budget."""

    sites: tuple[Site, ...]
    ties: tuple[Tie, ...]
    scores: dict[str, Tensor]
    cost: Cost

    def site(self, name: str) -> Site:
        """The site of that name."""
        return next(site for site in self.sites if site.name == name)

    def levels(self, tie: Tie) -> list[int]:
        """What a tie may take, by the rules in words: floors, multiples, or everything."""
        known = {site.name for site in self.sites}
        if not set(tie.ratios) <= known:
            return [tie.levels[-1]]
        good = [
            level
            for level in tie.levels[:-1]
            if all(
                self.site(name).floor <= ratio * level
                and not ratio * level % self.site(name).multiple
                for name, ratio in tie.ratios.items()
            )
        ]
        return [*good, tie.levels[-1]]


def chain(
    widths: list[int], ties: list[Tie], floors: list[int], multiples: list[int],
    scores: list[list[float]], blocks: list[float], rows: int = 7,
    missing: frozenset[str] = frozenset(),
) -> Problem:  # fmt: skip
    """A chain of linear layers of the given hidden widths, and square blocks that can go."""
    leaves = [Leaf(f"fc{i}", n) for i, n in enumerate(widths)]
    dims = [Fixed(3), *leaves, Fixed(2)]
    net, layouts, terms = nn.Module(), {}, []
    for i, (before, after) in enumerate(pairwise(dims)):
        net.add_module(f"fc{i}", nn.Linear(before.size, after.size))
        layouts |= {f"fc{i}.weight": (after, before), f"fc{i}.bias": (after,)}
        terms.append(Term(f"fc{i}", "addmm", rows, (after, before)))
    sites = [
        Site(
            leaf.name, "channel", leaf.n,
            (
                Slice(f"{leaf.name}.weight", 0, leaf, "out"),
                Slice(f"{leaf.name}.bias", 0, leaf, "out"),
                Slice(f"fc{i + 1}.weight", 1, leaf, "in"),
            ),
            floor=floors[i], multiple=multiples[i],
        )
        for i, leaf in enumerate(leaves)
    ]  # fmt: skip
    for i, _ in enumerate(blocks):
        net.add_module(f"block{i}", nn.Linear(2 + i, 2 + i))
        terms.append(Term(f"block{i}", "addmm", rows * (2 + i) ** 2, ()))
        sites.append(Site(f"block{i}", "layer", 1, floor=0, module=f"block{i}"))
    given = [*scores, *([score] for score in blocks)]
    found = {s.name: torch.tensor(v) for s, v in zip(sites, given, strict=True)}
    graph = Graph(layouts, {}, {}, tuple(ties), (), tuple(terms), ())
    kept = tuple(site for site in sites if site.name not in missing)
    return Problem(kept, tuple(ties), found, Cost(graph, net))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Chains of up to five layers; neighbours may be tied, one tie may reach out of scope."""
    bases = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    names, widths, ties = [], [], []
    for base in bases:
        ratios = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
        members = {}
        for ratio in ratios:
            members[f"fc{len(names)}"] = ratio
            names.append(f"fc{len(names)}")
            widths.append(ratio * base)
        lower = draw(st.sets(st.integers(1, base), max_size=base))
        every = draw(st.booleans())
        levels = range(1, base + 1) if every else sorted(lower | {base})
        ties.append(Tie(members, tuple(levels)))
    number = st.integers(0, 5).map(float) | st.floats(0.125, 10, width=32)
    scores = [draw(st.lists(number, min_size=n, max_size=n)) for n in widths]
    few = {"min_size": len(widths), "max_size": len(widths)}
    floors = draw(st.lists(st.integers(1, 3), **few))
    multiples = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3]), **few))
    blocks = draw(st.lists(number, max_size=3))
    missing = frozenset(draw(st.sets(st.sampled_from(names), max_size=1)))
    if len(missing) == len(names) and not blocks:
        missing = frozenset()
    return chain(widths, ties, floors, multiples, scores, blocks, missing=missing)


def small() -> Problem:
    """Two free layers of four, scores 4 3 2 1 and 1 2 3 4."""
    scores = [[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]]
    return chain([4, 4], [], [1, 1], [1, 1], scores, [])


def numbers(index: np.ndarray) -> list[int]:
    """An index as a list."""
    return [int(i) for i in index]
