"""Nested plans: every smaller network keeps a part of what the larger ones keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.allocate.allocation import allocate
from secateur.allocate.decide import Decider
from secateur.apply.verify import compare, run_detached
from secateur.core.batches import Call
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.layout import Concat, Index, Layout, Leaf, Product
from secateur.core.tensors import light_copy, named_tensors, own_memory
from secateur.graph.graph import Graph
from secateur.score import Scores
from secateur.search.trial import Trial, share_budget
from secateur.search.workshop import ATTEMPTS, Workshop

_HALVINGS = 6


def nest(
    shop: Workshop, shares: Sequence[float], cost: str
) -> tuple[nn.Module, tuple[Trial, ...], tuple[str, ...]]:
    """A dense copy in which what is kept longest comes first, and one repaired trial a level.

    shares: of the dense cost, all below 1, falling. cost: "macs", "params" or "ns".

    Returns the dense network, the trials in the order of the shares (their plans cut the returned
    network, not the original), and sentences for the report.

    Raises:
        InfeasibleBudget: A share cannot be reached.
    """
    original = shop.model
    for _ in range(ATTEMPTS):
        frozen = len(shop.frozen)
        counts = nested(shop.decider, shares, cost, shop.how)
        dense, ordered = sorted_copy(original, shop.call, shop.graph, shop.decider)
        if ordered:
            first = {name: torch.arange(len(s), 0, -1.0) for name, s in shop.decider.scored.items()}
            shop.decider = replace(shop.decider, model=dense, scored=Scores(first))
        shop.model = dense
        try:
            trials = tuple(shop.keep(kept) for kept in counts)
        except RecipeError:
            if len(shop.frozen) == frozen:
                raise
            trials = ()
        finally:
            shop.model = original
        if len(shop.frozen) == frozen:
            notes = () if ordered else (NOT_SORTED,)
            return dense, trials, (*shop.decider.notes, *notes)
    raise RecipeError("no nested plans could be cut", hint="exclude parts with scope=sc.skip(...)")


NOT_SORTED = (
    "the channels could not be reordered without changing the outputs: levels copy their slices"
)


def nested(decider: Decider, shares: Sequence[float], cost: str, how: Any) -> list[dict[str, int]]:
    """How many indices each site keeps at every share, no site more than at the share before.

    Where the allocator gives a site more than it has left, the site keeps what it has, and what
    that saves goes to the others.

    Raises:
        InfeasibleBudget: A share cannot be reached; the message says what can.
    """
    most, above, found = {site.name: site.n for site in decider.places}, 1.0, []
    for share in shares:
        try:
            most = _within(decider, share, above, cost, how, most)
        except InfeasibleBudget as error:
            least = error.message.rpartition("cannot be reached: ")[2]
            raise InfeasibleBudget(
                f"there is no level {share:g}: {least}",
                hint="give larger levels; " + (error.hint or "widen the scope"),
            ) from error
        above = share
        found.append(most)
    return found


def _within(
    decider: Decider, share: float, above: float, cost: str, how: Any, most: Mapping[str, int]
) -> dict[str, int]:
    """The most that a level can keep of the one above it at its share of the cost."""
    ceiling = share * getattr(decider.cost.total({}), cost)

    def asked(share: float) -> tuple[dict[str, int], bool]:
        chosen = allocate(
            decider.places, decider.graph.ties, decider.scored, decider.cost,
            share_budget(cost, share), how,
        )  # fmt: skip
        capped = {name: min(len(kept), most[name]) for name, kept in chosen.kept.items()}
        return capped, any(len(kept) > most[name] for name, kept in chosen.kept.items())

    best, lacking = asked(share)
    low, high = share, above
    for _ in range(_HALVINGS if lacking else 0):
        middle = (low + high) / 2
        counts, _ = asked(middle)
        if getattr(decider.cost.total(counts), cost) <= ceiling:
            best, low = counts, middle
        else:
            high = middle
    return best


def sorted_copy(
    model: nn.Module, call: Call, graph: Graph, decider: Decider
) -> tuple[nn.Module, bool]:
    """A copy with its own memory, the indices of every site in the order of their scores.

    Where that changes the outputs (neighbouring channels that matter to each other, states that
    the model returns), the copy is in the original order, and the second value is False.
    """
    orders = {
        name: score.argsort(descending=True, stable=True).numpy()
        for name, score in decider.scored.items()
        if any(name == site.name and site.module is None for site in decider.places)
    }
    copy = light_copy(model)
    with torch.no_grad():
        for name, tensor in named_tensors(copy):
            tensor.data = _permuted(tensor.data, graph.layouts.get(name, ()), orders)
    own_memory(copy, model)
    if compare(run_detached(model, call), run_detached(copy, call)).ok:
        return copy, True
    copy = light_copy(model)
    own_memory(copy, model)
    return copy, False


def _permuted(tensor: Tensor, layouts: Sequence[Layout], orders: Mapping[str, Index]) -> Tensor:
    for dim, layout in enumerate(layouts):
        if layout.names & orders.keys():
            places = torch.from_numpy(positions(layout, orders)).to(tensor.device)
            tensor = tensor.index_select(dim, places)
    return tensor


def positions(layout: Layout, orders: Mapping[str, Index]) -> Index:
    """Where the new positions of a dimension were before its leaves were reordered.

    Example:
        >>> positions(Product((Leaf("a", 2), Leaf("b", 2))), {"b": np.array([1, 0])})
        array([1, 0, 3, 2])
    """
    if isinstance(layout, Leaf) and layout.name in orders:
        return orders[layout.name]
    if isinstance(layout, Product):
        found = np.zeros(1, dtype=np.int64)
        for part in layout.parts:
            found = np.add.outer(found * part.size, positions(part, orders)).reshape(-1)
        return found
    if isinstance(layout, Concat):
        starts = np.cumsum([0, *(part.size for part in layout.parts)])
        parts = zip(starts, layout.parts, strict=False)
        return np.concatenate([start + positions(part, orders) for start, part in parts])
    return np.arange(layout.size, dtype=np.int64)
