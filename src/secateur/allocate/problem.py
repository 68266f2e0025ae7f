"""Problem: ladders, ceilings and exact costs, and the moves that every allocator is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from secateur.allocate.database import Database
from secateur.allocate.ladder import Ladder, Vector, ladders
from secateur.allocate.orders import uniform
from secateur.core.budget import Budget, Ceiling, Sparsity
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.core.layout import Index
from secateur.core.site import Site, Tie
from secateur.measure.cost import Amounts, Cost

_POINTS = 129


class Nanoseconds(Ceiling):
    """The most predicted nanoseconds that a run may take; needs a `Cost` with a latency table.

    The prediction steers; whether a model really is that fast, only a timing says.

    Example:
        >>> Nanoseconds(1_500_000).show(2_000_000, 0)
        '2 ms'
    """

    kind = "ns"

    def show(self, amount: int, original: int) -> str:
        """An amount in milliseconds, as it is predicted."""
        return f"{amount / 1e6:.4g} ms"


@dataclass(frozen=True)
class Allocation:
    """What stays.

    kept: site name -> kept indices, ascending, for every site that is not a block. removed: the
    blocks that go. before, after: exact costs. notes: what had to stay whole, and why. error: the
    sum of the ladders' errors (see `Ladder.errors`).
    """

    kept: Mapping[str, Index]
    removed: tuple[str, ...]
    before: Amounts
    after: Amounts
    notes: tuple[str, ...] = ()
    error: float = 0.0


class Problem:
    """One allocation in the making. In all methods `down[i]` is how many steps ladder `i` is down.

    ladders: what can shrink. least: the steps that every ladder must go down whatever the cost.
    ceilings: (budget, the amount's name, the most allowed). before: the whole model's cost.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        ties: Sequence[Tie],
        scores: Mapping[str, Tensor],
        cost: Cost,
        budget: Budget,
        sparsity: Literal["each", "total"] = "total",
        database: Database | None = None,
    ) -> None:
        if not isinstance(budget, Budget):
            raise RecipeError(f"{budget!r} is not a budget", hint="for example MACs('50%')")
        if not sites:
            raise RecipeError("there is nothing to prune", hint="widen the scope or add a unit")
        self.cost, self.budgets = cost, budget.parts
        self.blocks = {site.name: str(site.module) for site in sites if site.module is not None}
        self._position = {module: i for i, module in enumerate(self.blocks.values())}
        self.before = cost.total({})
        kind = next((b.kind for b in self.budgets if isinstance(b, Ceiling)), "params")
        weights = {
            site.name: float(getattr(cost.index(site), kind))
            for site in sites
            if site.module is not None
        }
        self.ladders, self.notes = ladders(sites, ties, scores, weights, cost.shapes, database)
        self.errors = [ladder.errors() for ladder in self.ladders]
        self.steps = np.array([len(ladder.levels) - 1 for ladder in self.ladders], dtype=np.int64)
        self.units = sum(ladder.units(ladder.top) for ladder in self.ladders)
        self.least = np.zeros(len(self.ladders), dtype=np.int64)
        self.ceilings = self._ceilings(sparsity)
        if not self.fits(self.steps):
            self._refuse()

    def _ceilings(self, sparsity: str) -> list[tuple[Budget, str, int]]:
        """All ceilings; a sparsity of each site binds ladders instead."""
        found: list[tuple[Budget, str, int]] = []
        for budget in self.budgets:
            if isinstance(budget, Ceiling):
                if budget.kind == "ns" and self.cost.table is None:
                    raise RecipeError(
                        f"{budget!r} needs predicted times, and the cost has no latency table",
                        hint="make it with Cost(graph, model, table=latency_table(...))",
                    )
                original = getattr(self.before, budget.kind)
                found.append((budget, budget.kind, budget.ceiling(original)))
            elif isinstance(budget, Sparsity) and sparsity == "each":
                forced = [_forced(ladder, budget) for ladder in self.ladders]
                self.least = np.maximum(self.least, forced)
            elif isinstance(budget, Sparsity):
                found.append((budget, "units", budget.kept(self.units)))
            else:
                raise RecipeError(f"{budget!r} cannot be allocated")
        return found

    def order(self, keys: Sequence[Vector]) -> Index:
        """The ladder of every step, first step first, by keys that never fall along a ladder.

        Equal keys: the lower score, then the fuller ladder, then the earlier ladder goes first.
        """
        whose = np.repeat(np.arange(len(keys)), [len(given) for given in keys])
        scores = np.concatenate([ladder.steps() for ladder in self.ladders])
        fuller = np.concatenate(uniform(self.ladders))
        return whose[np.lexsort((whose, fuller, scores, np.concatenate(keys)))]

    def level(self, ladder: int, down: int) -> int:
        """The level of a ladder that is so many steps down."""
        return self.ladders[ladder].levels[-1 - down]

    def counts(self, down: Index) -> dict[str, int]:
        """How many indices every site keeps."""
        return {
            member.site.name: member.ratio * self.level(i, down[i])
            for i, ladder in enumerate(self.ladders)
            if not ladder.blocks
            for member in ladder.members
        }

    def removed(self, down: Index) -> tuple[str, ...]:
        """The modules of the blocks that go, in the order of the sites."""
        gone: list[str] = []
        for i, ladder in enumerate(self.ladders):
            gone += [self.blocks[name] for name in ladder.blocks[self.level(i, down[i]) :]]
        return tuple(sorted(gone, key=self._position.__getitem__))

    def amounts(self, down: Index) -> tuple[Amounts, int]:
        """The cost, and how many units stay."""
        return self.cost.total(self.counts(down), self.removed(down)), self._kept(down)

    def _kept(self, down: Index) -> int:
        return sum(k.units(self.level(i, down[i])) for i, k in enumerate(self.ladders))

    def fits(self, down: Index) -> bool:
        """Whether every ceiling holds."""
        amounts, units = self.amounts(down)
        return all(
            (units if kind == "units" else getattr(amounts, kind)) <= most
            for _, kind, most in self.ceilings
        )

    def error(self, down: Index) -> float:
        """The sum of all ladders' errors."""
        return float(sum(e[-1 - d] for e, d in zip(self.errors, down, strict=True)))

    def curve(self, ladder: int, down: Index) -> Vector:
        """What each ceiling's amount is at every level of one ladder, `[ceilings, levels]`.

        Beyond 129 levels, amounts in between are interpolated (exact where they are linear).
        """
        chosen, counts = self.ladders[ladder], self.counts(down)
        kinds = [kind for _, kind, _ in self.ceilings]
        levels = np.array(chosen.levels)
        here = self.level(ladder, down[ladder])
        units = self._kept(down) + chosen.units(1) * (levels - here).astype(np.float64)
        if chosen.blocks:
            other, rows = down.copy(), []
            for step in range(len(levels))[::-1]:
                other[ladder] = step
                rows.append(self.amounts(other)[0])
            table = {k: np.array([getattr(r, k) for r in rows], dtype=float) for k in _names(kinds)}
        else:
            places = np.linspace(0, len(levels) - 1, min(len(levels), _POINTS)).round().astype(int)
            some = levels[places]
            given = {m.site.name: m.ratio * some for m in chosen.members}
            found = self.cost.totals({**counts, **given}, self.removed(down))
            table = {k: np.interp(levels, some, found[k]) for k in _names(kinds)}
        return np.stack([units if kind == "units" else table[kind] for kind in kinds])

    def descend(self, order: Index, start: Index | None = None) -> Index:
        """From `start` (nothing removed), the fewest steps of the order that make all ceilings
        hold, by bisection; then whatever still fits is taken back, last step first.
        """
        base = self.least if start is None else np.maximum(start, self.least)
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            fits = self.fits(self.taken(order, middle, base))
            low, high = (low, middle) if fits else (middle + 1, high)
        return self.fill(self.taken(order, low, base), order)

    def taken(self, order: Index, steps: int, base: Index) -> Index:
        """After the first `steps` of the order; at least `base`."""
        done = np.bincount(order[:steps], minlength=len(self.ladders))
        return np.maximum(done, base).astype(np.int64)

    def fill(self, down: Index, order: Index) -> Index:
        """Take back, last step of the order first, whatever still fits; one pass is enough.

        Costs only grow with what is kept, so a step that does not fit now never will.
        """
        down, full = down.copy(), set[int]()
        number = np.empty(
            len(order), dtype=np.int64
        )  # how many earlier ones are of the same ladder
        number[np.argsort(order, kind="stable")] = np.concatenate(
            [np.arange(n) for n in np.bincount(order, minlength=len(self.ladders))]
        )
        for ladder in (int(i) for i in order[number < down[order]][::-1]):
            if ladder in full or down[ladder] <= self.least[ladder]:
                continue
            down[ladder] -= 1
            if not self.fits(down):
                down[ladder] += 1
                full.add(ladder)
                if len(full) == len(self.ladders):
                    break
        return down

    def allocation(self, down: Index) -> Allocation:
        """Read off what stays."""
        kept = {
            member.site.name: np.sort(member.order[: member.ratio * self.level(i, down[i])])
            for i, ladder in enumerate(self.ladders)
            if not ladder.blocks
            for member in ladder.members
        }
        after, _ = self.amounts(down)
        gone = outermost(self.removed(down))
        return Allocation(kept, gone, self.before, after, tuple(self.notes), self.error(down))

    def _refuse(self) -> None:
        """Say what is reachable, in the units of the budgets that do not hold."""
        amounts, units = self.amounts(self.steps)
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


def outermost(modules: Sequence[str]) -> tuple[str, ...]:
    """Modules without those that lie in another one of them.

    Example:
        >>> outermost(["a", "a.b", "ab"])
        ('a', 'ab')
    """
    return tuple(m for m in modules if not any(m.startswith(other + ".") for other in modules))


def _forced(ladder: Ladder, budget: Sparsity) -> int:
    """How many steps down bring a ladder to its share (or to its floor)."""
    most = budget.kept(ladder.top)
    return min(sum(level > most for level in ladder.levels), len(ladder.levels) - 1)


def _names(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in dict.fromkeys(kinds) if kind != "units"]
