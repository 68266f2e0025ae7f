"""Evolution: levels switched between ladders at equal budget, kept where the model gets better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from time import monotonic

import numpy as np
from torch import Tensor

from secateur.allocate.allocation import choose
from secateur.allocate.allocator import Allocator, Order, resolve
from secateur.allocate.database import Database
from secateur.allocate.problem import Allocation, Problem, outermost
from secateur.core.budget import Budget
from secateur.core.errors import InputError, RecipeError
from secateur.core.layout import Index
from secateur.core.site import Site, Tie
from secateur.measure.cost import Cost

Fitness = Callable[[Allocation], float]
_TRIES = 20


@dataclass(frozen=True)
class Evolution:
    """The best allocation that was found.

    fitness: what the callback said of it. history: (calls so far, best fitness so far) at the
    start and wherever it got better. calls: of the callback. stopped: "patience", "calls", "time"
    or "exhausted" (no allocation was left to try).
    """

    best: Allocation
    fitness: float
    history: tuple[tuple[int, float], ...]
    calls: int
    stopped: str


def evolve(
    sites: Sequence[Site],
    ties: Sequence[Tie],
    scores: Mapping[str, Tensor],
    cost: Cost,
    budget: Budget,
    fitness: Fitness,
    *,
    start: Allocation | None = None,
    how: str | Order | Allocator = "knapsack",
    database: Database | None = None,
    calls: int = 200,
    offspring: int = 8,
    patience: int = 5,
    seconds: float | None = None,
    seed: int = 0,
) -> Evolution:
    """Improve an allocation by level switches (EvoPress: Sieberling et al., 2024).

    In every generation the best allocation so far has `offspring` children. A child lets some
    ladders keep more and others less, so that the budget still holds and no step more fits; it is
    judged by `fitness`, and replaces its parent if it is better. No allocation is judged twice.

    Args:
        sites: As in `allocate`.
        ties: As in `allocate`.
        scores: As in `allocate`.
        cost: As in `allocate`.
        budget: As in `allocate`.
        fitness: A number for an allocation, lower is better (NaN counts as worst). Cutting, repair
            and evaluation are its concern.
        start: Where to start; by default what `how` allocates.
        how: An allocator, see `allocate`. Also says what `Sparsity` is a share of.
        database: Measured errors, for the allocator.
        calls: The most calls of `fitness`.
        offspring: Children by generation.
        patience: Generations in a row without a better child, after which it stops.
        seconds: Stops before the first call of `fitness` after that time. The result then depends
            on the machine; without it only on the seed.
        seed: Of all random choices.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from secateur.core.budget import MACs
        >>> from secateur.graph import analyze
        >>> from secateur.score import Facts, scores
        >>> from secateur.units import Channel, sites
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> graph = analyze(net, torch.zeros(1, 3))
        >>> places = sites(graph, Channel(), None, net)
        >>> scored = scores("l1", places, Facts.of(net))
        >>> def first_stays(allocation):
        ...     return -len(allocation.kept["0"])
        >>> found = evolve(places, graph.ties, scored, Cost(graph, net), MACs("50%"), first_stays)
        >>> len(found.best.kept["0"]), found.history[-1][1]
        (8, -8.0)

    Raises:
        RecipeError: A number makes no sense.
        InputError: `start` does not fit the budget or the sites.
        InfeasibleBudget: As in `allocate`.
    """
    for name, value in (("calls", calls), ("offspring", offspring), ("patience", patience)):
        if value < 1:
            raise RecipeError(f"{name}={value!r}: expected an integer of at least 1")
    if seconds is not None and not seconds > 0:
        raise RecipeError(f"seconds={seconds!r}: expected a time, above 0")
    rule = resolve(how)
    problem = Problem(sites, ties, scores, cost, budget, rule.sparsity, database)
    first = choose(problem, rule) if start is None else _steps(problem, start)
    search = _Search(problem, fitness, calls, seconds, np.random.default_rng(seed))
    return search.run(first, offspring, patience)


class _Search:
    def __init__(
        self,
        problem: Problem,
        fitness: Fitness,
        calls: int,
        seconds: float | None,
        rng: np.random.Generator,
    ) -> None:
        self.problem, self.fitness, self.rng = problem, fitness, rng
        self.most, self.calls = calls, 0
        self.end = None if seconds is None else monotonic() + seconds
        self.seen: set[bytes] = set()

    def run(self, down: Index, offspring: int, patience: int) -> Evolution:
        best, value = down, self._judge(down)
        history, waited, stopped = [(self.calls, value)], 0, ""
        while not stopped:
            parent, better, before = best, False, self.calls
            for _ in range(offspring):
                stopped = self._over()
                child = None if stopped else self._child(parent)
                if child is None:
                    break
                found = self._judge(child)
                if found < value:
                    best, value, better = child, found, True
                    history.append((self.calls, value))
            waited = 0 if better else waited + 1
            if not stopped and self.calls == before:
                stopped = "exhausted"
            stopped = stopped or ("patience" if waited >= patience else "")
        allocation = self.problem.allocation(best)
        return Evolution(allocation, value, tuple(history), self.calls, stopped)

    def _over(self) -> str:
        if self.calls >= self.most:
            return "calls"
        return "time" if self.end is not None and monotonic() > self.end else ""

    def _judge(self, down: Index) -> float:
        self.seen.add(down.tobytes())
        self.calls += 1
        value = float(self.fitness(self.problem.allocation(down)))
        return float("inf") if isnan(value) else value

    def _child(self, parent: Index) -> Index | None:
        """An allocation that was not judged yet, or None where none was found."""
        for _ in range(_TRIES):
            child = self._switched(parent)
            if child is not None and child.tobytes() not in self.seen:
                return child
        return None

    def _switched(self, parent: Index) -> Index | None:
        """One to three ladders keep more; others go down until it fits; then what fits goes up."""
        problem, rng = self.problem, self.rng
        can_rise = np.flatnonzero(parent > problem.least)
        if not len(can_rise):
            return None
        child = parent.copy()
        number = min(int(rng.integers(1, 4)), int(rng.integers(1, 4)), len(can_rise))
        up = rng.choice(can_rise, number, replace=False)
        for i in up:
            child[i] -= self._stride(i, int(child[i] - problem.least[i]))
        others = np.setdiff1d(np.flatnonzero(problem.steps > 0), up)
        while not problem.fits(child):
            below = others[child[others] < problem.steps[others]]
            if not len(below):
                return None
            i = rng.choice(below)
            child[i] += self._stride(i, int(problem.steps[i] - child[i]))
        order = rng.permutation(np.flatnonzero(problem.steps > 0))
        return problem.fill(child, np.repeat(order, problem.steps[order]))

    def _stride(self, ladder: int, most: int) -> int:
        """How many steps at once: random in its logarithm, up to half of the ladder."""
        longest = max(1, int(self.problem.steps[ladder]) // 2)
        return min(most, int(np.exp(self.rng.uniform(0, np.log(longest + 1)))))


def _steps(problem: Problem, start: Allocation) -> Index:
    """How many steps down every ladder is in an allocation."""
    down = np.zeros(len(problem.ladders), dtype=np.int64)
    for i, ladder in enumerate(problem.ladders):
        if ladder.blocks:
            gone = [
                outermost([problem.blocks[name] for name in ladder.blocks[level:]])
                for level in ladder.levels
            ]
            fits = [level for level, out in enumerate(gone) if set(out) == set(start.removed)]
        else:
            member = ladder.members[0]
            kept = len(start.kept.get(member.site.name, range(member.site.n)))
            fits = [k for k, level in enumerate(ladder.levels) if level * member.ratio == kept]
        if not fits:
            raise InputError(
                f"the start keeps a number of {ladder.name or 'blocks'} that is not a level",
                hint="start from an allocation of the same sites, ties and scores",
            )
        down[i] = len(ladder.levels) - 1 - fits[-1]
    if not problem.fits(down) or bool(np.any(down < problem.least)):
        raise InputError(
            "the start does not fit the budget", hint="start from an allocation under this budget"
        )
    return down
