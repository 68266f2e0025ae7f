"""Knapsack: the levels of all ladders together, by dynamic programming over a quantised cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from secateur.allocate.allocator import allocator
from secateur.allocate.ladder import Ladder, Vector
from secateur.allocate.orders import global_, sensitivity, uniform
from secateur.allocate.problem import Problem
from secateur.core.layout import Index

BINS = 2000
ROUNDS = 6
_TURNS = 4
_WHOLE = 2.0**53


def plan(problem: Problem) -> Index:
    """How many steps down every ladder goes, so that the sum of errors is small; `[ladders]`.

    A model's cost is a sum of products of neighbouring sites' counts. Around the best point so far
    it is linearised: each ladder's cost at every level, the others staying. Then the separable
    problem is solved, its solution repaired with the exact cost (down by error per saving until
    all ceilings hold, up as long as a step fits), and the next round starts there and looks less
    far. Several ceilings become one by weights, which grow where a ceiling did not hold. The result
    is never worse than "global", "uniform" and "sensitivity" by the same errors.

    Time: `ROUNDS * _TURNS` programs (one round and turn where costs are separable and there is one
    ceiling), each `bins` times the levels whose costs differ in bins, plus one evaluation of the
    cost at every level. Memory: `4 * bins * ladders` bytes, and one ladder's levels of monomials.
    """
    pool = list(_starts(problem))
    if not problem.ceilings:
        return pool[0]
    best = min(pool, key=problem.error)
    radius, curves = 1.0, _curves(problem, best)
    for _ in range(ROUNDS):
        found, settled = _around(problem, best, curves, radius)
        better = problem.error(found) < problem.error(best)
        best = found if better else best
        if settled:
            break
        curves = _curves(problem, best) if better else curves
        radius /= 2
    return best


@allocator(
    "knapsack",
    paper="Frantar & Alistarh, SPDY, ICML 2022; Shen et al., HALP, NeurIPS 2022",
    choose=plan,
)
def knapsack(ladders: Sequence[Ladder]) -> list[Vector]:
    """The levels that lose least together under all ceilings, by dynamic programming.

    What a level loses is measured (a `Database`), or what the scores say (`Ladder.errors`). As an
    order of steps alone, without costs: the error that a step adds, by index that it removes.
    """
    return [
        np.diff(ladder.errors()[::-1]) / -np.diff([ladder.units(v) for v in ladder.levels[::-1]])
        for ladder in ladders
    ]


def _starts(problem: Problem) -> Iterator[Index]:
    """What simple allocators choose."""
    for rule in (global_, uniform, sensitivity):
        yield problem.descend(problem.order(rule(problem.ladders)))


def _curves(problem: Problem, here: Index) -> list[Vector]:
    """The cost of every level of every ladder, the others staying; `[ceilings, levels]` each."""
    return [problem.curve(i, here) for i in range(len(problem.ladders))]


def _around(
    problem: Problem, here: Index, curves: Sequence[Vector], radius: float
) -> tuple[Index, bool]:
    """The best of the linearised problem around a point, repaired; whether there is no better.

    There is none when all levels were allowed and the linear cost of the solution is the true one:
    costs are separable, or the point itself is the solution.

    radius: how far, in kept fractions, a ladder may move.
    """
    limits = np.array([most for _, _, most in problem.ceilings], dtype=float)
    now = _amounts(problem, here)
    weights = np.ones(len(limits)) / len(limits)
    options = [
        _window(ladder, problem.level(i, here[i]), radius, int(problem.least[i]))
        for i, ladder in enumerate(problem.ladders)
    ]
    errors = [e[o] for e, o in zip(problem.errors, options, strict=True)]
    costs = [c[:, o] for c, o in zip(curves, options, strict=True)]
    best = here
    for _ in range(_TURNS if len(limits) > 1 else 1):
        scale = weights / np.maximum(limits, 1.0) if len(limits) > 1 else weights
        least = sum(c[:, 0] - now for c in costs) + now
        room = float(scale @ (limits - least))
        picks = solve(errors, [scale @ (c - c[:, :1]) for c in costs], room)
        if picks is None:
            break
        levels = np.array([o[p] for o, p in zip(options, picks, strict=True)], dtype=np.int64)
        down = problem.steps - levels
        predicted = sum(c[:, p] - now for c, p in zip(costs, picks, strict=True)) + now
        true = _amounts(problem, down)
        same = bool(np.allclose(predicted, true, rtol=1e-9, atol=0))
        repaired = _repair(problem, down, curves if same else _curves(problem, down))
        if problem.error(repaired) < problem.error(best):
            best = repaired
        if bool(np.all(true <= limits)):
            return best, same and radius >= 1
        weights = weights * np.exp(4 * (true / np.maximum(limits, 1.0) - 1))
        weights /= weights.sum()
    return best, False


def _amounts(problem: Problem, down: Index) -> Vector:
    """What each ceiling's amount is."""
    amounts, units = problem.amounts(down)
    kinds = [kind for _, kind, _ in problem.ceilings]
    return np.array([float(units if k == "units" else getattr(amounts, k)) for k in kinds])


def _window(ladder: Ladder, level: int, radius: float, least: int) -> Index:
    """The numbers of the levels that are near enough; the first is the cheapest."""
    fractions = ladder.fractions()
    near = np.abs(fractions - level / ladder.top) <= radius
    near[len(fractions) - least :] = False
    return np.flatnonzero(near)


def _repair(problem: Problem, down: Index, curves: Sequence[Vector]) -> Index:
    """Down by added error per saving until all ceilings hold, then up as long as a step fits."""
    limits = np.array([max(1, most) for _, _, most in problem.ceilings], dtype=float)
    keys = []
    for errors, curve in zip(problem.errors, curves, strict=True):
        saved = np.diff(np.max(curve / limits[:, None], axis=0))[::-1]
        added = np.diff(errors[::-1])
        keys.append(np.maximum.accumulate(added / np.maximum(saved, 1e-12)))
    return problem.descend(problem.order(keys), down)


def solve(
    errors: Sequence[Vector], costs: Sequence[Vector], room: float, bins: int = BINS
) -> list[int] | None:
    """One option of each list so that costs add up to at most `room` and errors to the least.

    Costs are at least 0 and are rounded up to one of `bins` equal parts of the room; integers that
    fit into as many bins are exact. Of equal errors the cheaper option is taken.

    Time: `bins` times the number of options that are worth their cost. Memory: `4 * bins` bytes a
    list. None: the cheapest options cost more than there is room for.

    Example:
        >>> solve([np.array([5.0, 0.0]), np.array([3.0, 1.0])], [np.array([0.0, 4.0])] * 2, 4.0)
        [1, 0]
    """
    if room < 0:
        return None
    whole = room <= bins and all(bool(np.all(cost == np.round(cost))) for cost in costs)
    unit = 1.0 if whole else max(room, 1e-300) / bins
    size = int(room // unit) if whole else bins
    best = np.zeros(size + 1)
    taken = np.full((len(errors), size + 1), -1, dtype=np.int32)
    sizes: list[Index] = []
    for i, (error, cost) in enumerate(zip(errors, costs, strict=True)):
        scaled = np.ceil(np.minimum(cost / unit, _WHOLE) - 1e-9)
        sizes.append(scaled.astype(np.int64))
        new = np.full(size + 1, np.inf)
        for option in _worth(error, sizes[i]):
            at = int(sizes[i][option])
            if at > size:
                break
            value = best[: size + 1 - at] + error[option]
            better = value < new[at:]
            new[at:][better] = value[better]
            taken[i, at:][better] = option
        best = new
    if not np.isfinite(best[size]):
        return None
    picks, left = [0] * len(errors), size
    for i in range(len(errors))[::-1]:
        picks[i] = int(taken[i, left])
        left -= int(sizes[i][picks[i]])
    return picks


def _worth(errors: Vector, sizes: Index) -> list[int]:
    """The options that no other one beats in both, cheapest first."""
    found: list[int] = []
    least = np.inf
    for option in np.lexsort((errors, sizes)):
        if errors[option] < least:
            found.append(int(option))
            least = errors[option]
    return found
