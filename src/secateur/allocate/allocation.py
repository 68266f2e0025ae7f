"""Allocation: how many and which indices every site keeps so that a budget holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from secateur.allocate.allocator import Allocator, Order, resolve, uniform
from secateur.allocate.ladder import Ladder, ladders
from secateur.core.budget import Budget, Ceiling, Sparsity
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.layout import Index
from secateur.core.site import Site, Tie
from secateur.measure.cost import Amounts, Cost


@dataclass(frozen=True)
class Allocation:
    """What stays.

    kept: site name -> kept indices, ascending, for every site that is not a block. removed: the
    blocks that go. before, after: exact costs. notes: what had to stay whole, and why.
    """

    kept: Mapping[str, Index]
    removed: tuple[str, ...]
    before: Amounts
    after: Amounts
    notes: tuple[str, ...] = ()


def allocate(
    sites: Sequence[Site],
    ties: Sequence[Tie],
    scores: Mapping[str, Tensor],
    cost: Cost,
    budget: Budget,
    how: str | Order | Allocator = "global",
) -> Allocation:
    """Choose what stays under a budget.

    Steps down are taken in the allocator's order until the budget holds, found by bisection on how
    many; then what still fits is taken back, last step first. So the budget is met from below, and
    no site (or tie of sites) could keep one more level.

    A tie moves as one: its sites keep `ratio * level` best indices each. A tie of which a member is
    not among the sites stays whole. Blocks are ranked together, by score per cost.

    how: "global", "uniform", "isomorphic", or a function of ladders. With "uniform", `Sparsity`
    is a share of every site; otherwise of all units together.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.core.budget import Params
        >>> from secateur.graph import analyze
        >>> from secateur.score import Facts, scores
        >>> from secateur.units import Channel, sites
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = analyze(net, torch.zeros(1, 3))
        >>> places = sites(graph, Channel(), None, net)
        >>> scored = scores("l1", places, Facts.of(net))
        >>> found = allocate(places, graph.ties, scored, Cost(graph, net), Params("50%"))
        >>> len(found.kept["0"]), found.before.params, found.after.params
        (3, 50, 20)

    Raises:
        InfeasibleBudget: even the smallest allowed sizes cost more; the message says how much.
        InputError: scores are missing, misshapen or not finite.
        RecipeError: there is no site, or the budget is not one.
    """
    return _Search(sites, ties, scores, cost, budget, resolve(how)).run()


class _Search:
    """One allocation in the making. `down[i]` is how many steps ladder `i` has gone down."""

    def __init__(
        self,
        sites: Sequence[Site],
        ties: Sequence[Tie],
        scores: Mapping[str, Tensor],
        cost: Cost,
        budget: Budget,
        rule: Allocator,
    ) -> None:
        if not isinstance(budget, Budget):
            raise RecipeError(f"{budget!r} is not a budget", hint="for example MACs('50%')")
        if not sites:
            raise RecipeError("there is nothing to prune", hint="widen the scope or add a unit")
        self.cost, self.budgets = cost, budget.parts
        self.blocks = [site for site in sites if site.module is not None]
        self.before = cost.total({})
        kind = next((b.kind for b in self.budgets if isinstance(b, Ceiling)), "params")
        weights = {b.name: float(getattr(cost.index(b), kind)) for b in self.blocks}
        self.ladders, self.notes = ladders(sites, ties, scores, weights)
        self.units = sum(ladder.units(ladder.top) for ladder in self.ladders)
        self._rank(rule)
        self.ceilings = self._ceilings(rule)

    def _rank(self, rule: Allocator) -> None:
        """Sort all steps; `self.order` holds the ladder of every step, first step first.

        Equal keys: the lower score, then the fuller ladder, then the earlier ladder goes first.
        """
        keys = rule(self.ladders)
        for ladder, given in zip(self.ladders, keys, strict=True):
            if given.shape != (len(ladder.levels) - 1,) or np.isnan(given).any():
                raise RecipeError(f"the allocator {rule.name!r} must give one number a step")
        whose = np.repeat(np.arange(len(keys)), [len(given) for given in keys])
        scores = np.concatenate([ladder.steps() for ladder in self.ladders])
        empty = np.concatenate(uniform.function(self.ladders))
        self.order = whose[np.lexsort((whose, empty, scores, np.concatenate(keys)))]

    def _ceilings(self, rule: Allocator) -> list[tuple[Budget, str, int]]:
        """(budget, amount's name, most allowed) for all; a sparsity of each site binds ladders."""
        found: list[tuple[Budget, str, int]] = []
        self.least = np.zeros(len(self.ladders), dtype=np.int64)
        for budget in self.budgets:
            if isinstance(budget, Ceiling):
                original = getattr(self.before, budget.kind)
                found.append((budget, budget.kind, budget.ceiling(original)))
            elif isinstance(budget, Sparsity) and rule.sparsity == "each":
                forced = [self._forced(ladder, budget) for ladder in self.ladders]
                self.least = np.maximum(self.least, forced)
            elif isinstance(budget, Sparsity):
                found.append((budget, "units", budget.kept(self.units)))
            else:
                raise RecipeError(f"{budget!r} cannot be allocated")
        return found

    @staticmethod
    def _forced(ladder: Ladder, budget: Sparsity) -> int:
        """How many steps down bring a ladder to its share (or to its floor)."""
        most = budget.kept(ladder.top)
        return min(sum(level > most for level in ladder.levels), len(ladder.levels) - 1)

    def levels(self, down: Index) -> list[int]:
        """The level of every ladder."""
        return [ladder.levels[-1 - d] for ladder, d in zip(self.ladders, down, strict=True)]

    def amounts(self, down: Index) -> tuple[Amounts, int]:
        """The cost, and how many units stay."""
        levels = self.levels(down)
        pairs = list(zip(self.ladders, levels, strict=True))
        counts = {m.site.name: m.ratio * v for k, v in pairs if not k.blocks for m in k.members}
        return self.cost.total(counts, self.removed(levels)), sum(k.units(v) for k, v in pairs)

    def removed(self, levels: Iterable[int]) -> tuple[str, ...]:
        """The modules of the blocks that go, in the order of the sites."""
        gone: list[int] = []
        for ladder, level in zip(self.ladders, levels, strict=True):
            if ladder.blocks:
                gone = sorted(int(i) for i in ladder.members[0].order[level:])
        return tuple(str(self.blocks[i].module) for i in gone)

    def fits(self, down: Index) -> bool:
        """Whether every ceiling holds."""
        amounts, units = self.amounts(down)
        return all(
            (units if kind == "units" else getattr(amounts, kind)) <= most
            for _, kind, most in self.ceilings
        )

    def taken(self, steps: int) -> Index:
        """Steps down every ladder after the first `steps` of the order, and what is forced."""
        return np.maximum(
            np.bincount(self.order[:steps], minlength=len(self.ladders)), self.least
        ).astype(np.int64)

    def run(self) -> Allocation:
        """Bisect, fill up, and read off what stays."""
        low, high = 0, len(self.order)
        if not self.fits(self.taken(high)):
            self._refuse()
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(self.taken(middle)) else (middle + 1, high)
        down = self._fill(self.taken(low), low)
        levels = self.levels(down)
        kept = {
            member.site.name: np.sort(member.order[: member.ratio * level])
            for ladder, level in zip(self.ladders, levels, strict=True)
            if not ladder.blocks
            for member in ladder.members
        }
        after, _ = self.amounts(down)
        gone = self.removed(levels)
        outer = tuple(b for b in gone if not any(b.startswith(other + ".") for other in gone))
        return Allocation(kept, outer, self.before, after, tuple(self.notes))

    def _fill(self, down: Index, steps: int) -> Index:
        """Take back, last step first, whatever still fits; one pass is enough.

        Costs only grow with what is kept, so a step that does not fit now never will.
        """
        full: set[int] = set()
        for ladder in (int(i) for i in self.order[:steps][::-1]):
            if ladder in full or down[ladder] <= self.least[ladder]:
                continue
            down[ladder] -= 1
            if not self.fits(down):
                down[ladder] += 1
                full.add(ladder)
                if len(full) == len(self.ladders):
                    break
        return down

    def _refuse(self) -> None:
        """Say what is reachable, in the units of the budgets that do not hold."""
        amounts, units = self.amounts(self.taken(len(self.order)))
        said = []
        for budget, kind, most in self.ceilings:
            if isinstance(budget, Ceiling) and getattr(amounts, kind) > most:
                least = budget.show(getattr(amounts, kind), getattr(self.before, kind))
                said.append(f"{budget!r} cannot be reached: the least is {least}")
            elif kind == "units" and units > most:
                share = int((1 - units / self.units) * 10000) / 10000
                said.append(f"{budget!r} cannot be reached: the most is Sparsity({share:g})")
        raise InfeasibleBudget(
            "; ".join(said),
            hint="lower floor or multiple, widen the scope or add a unit"
            + (f" ({len(self.notes)} ties must stay whole)" if self.notes else ""),
        )
