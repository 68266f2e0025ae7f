"""A latency table: milliseconds of every layer shape on this machine, as a cost of kept counts.

Based on the look-up tables of NetAdapt (Yang et al., ECCV 2018) and HALP (Shen et al., NeurIPS
2022). A prediction steers a search; only a timing of the whole model accepts its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secateur.core.batches import as_call, tensors_in
from secateur.core.cache import folder_of
from secateur.core.measured import Latency
from secateur.core.threads import using
from secateur.graph.graph import Graph
from secateur.measure.clock import measure
from secateur.measure.latency_cache import TimeCache, conditions
from secateur.measure.latency_jobs import Found, Job, find
from secateur.measure.program import Counts, Program

SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)
FEWER = (1.0, 0.5, 0.25)
_SLOW = 0.03
Vector = npt.NDArray[np.float64]
Timer = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class Grid:
    """Seconds of a job at a few sizes: `seconds[i, j]` at `inside[i]`, `outside[j]`, ascending."""

    inside: tuple[int, ...]
    outside: tuple[int, ...]
    seconds: Vector


class LatencyTable:
    """Predicts the milliseconds of a model at kept counts.

    The sum of its linear operations' and recurrent layers' times, each interpolated between
    measured sizes (bilinear, made monotone in both), plus the rest: what the whole model takes
    beyond them, at least 0. Of the rest, the launches of the other operations stay (counted, at the
    mean time of a normalisation and an activation of one element), and the remainder shrinks with
    the share of output elements that stay. If the operations alone take longer than the whole
    model, they are scaled down to it. So the prediction for the full model is what was measured,
    and keeping more is never predicted to be faster.

    whole: the timing of the full model. rest_ms: what is not a linear operation. stretch: how much
    longer an operation takes in a stretch as long as the model's run than alone, on a busy machine.
    """

    def __init__(
        self,
        found: Found,
        grids: Mapping[Job, Grid],
        whole: Latency,
        launch: float = 0.0,
        stretch: float = 1.0,
    ) -> None:
        self.whole = whole
        self.operations = found.operations
        self._compile(grids)
        full = self._sizes(self._program.run({}))
        alone = 1000 * float(self._times(*full).sum())
        total = stretch * alone
        self._scale = min(stretch, whole.median_ms / alone) if alone > 0 else 1.0
        self.rest_ms = max(0.0, whole.median_ms - total)
        self._fixed = min(self.rest_ms, 1000 * launch * stretch * found.others)
        self._outputs = np.array([op.outputs for op in found.operations])
        self._whole_outputs = float(self._outputs @ full[1][:, 0]) or 1.0
        self._alive = lru_cache(maxsize=256)(self._mask)

    def predict(self, counts: Mapping[str, int], removed: Iterable[str] = ()) -> float:
        """Milliseconds when leaf `name` keeps `counts[name]` (default: all), without blocks."""
        return float(self.many(counts, removed)[0])

    def ns(self, counts: Counts, removed: Iterable[str] = ()) -> Any:
        """The same in whole nanoseconds; an array where counts are arrays (see `Cost.totals`)."""
        found = np.rint(1e6 * self.many(counts, removed)).astype(np.int64)
        many = any(np.ndim(count) for count in counts.values())
        return found if many else int(found[0])

    def many(self, counts: Counts, removed: Iterable[str] = ()) -> Vector:
        """Milliseconds at several points at once, `[b]`; memory: `b` times the operations."""
        alive = self._alive(frozenset(removed))
        inside, outside = self._sizes(self._program.run(counts))
        times = (alive @ self._times(inside, outside)) * 1000 * self._scale
        outputs = (self._outputs * alive) @ outside / self._whole_outputs
        launches = self._fixed * (alive.mean() if len(alive) else 1.0)
        shrinking = self.rest_ms - self._fixed
        return times + launches + shrinking * (outputs if len(alive) else 1.0)

    def _mask(self, removed: frozenset[str]) -> Vector:
        """1 for operations that stay when these blocks go."""
        return np.array(
            [
                not any(
                    op.module == block or op.module.startswith(block + ".") for block in removed
                )
                for op in self.operations
            ],
            dtype=np.float64,
        )

    def _compile(self, grids: Mapping[Job, Grid]) -> None:
        """All operations in flat arrays: where their sizes are, and their padded grids."""
        self._program = Program()
        rows = [
            [self._program.monomial([op.inside]) for op in self.operations],
            [self._program.monomial([op.outside]) for op in self.operations],
        ]
        self._program.compile([1] * len(rows[0] + rows[1]), [n for side in rows for _, n in side])
        self._places = [np.array([n for _, n in side], dtype=np.int64) for side in rows]
        self._constants = [np.array([c for c, _ in side], dtype=np.float64) for side in rows]
        self._constants[1] *= np.array([op.scale for op in self.operations])
        tables = [_monotone(_to_zero(grids[op.job])) for op in self.operations]
        longest = max((len(table.inside) for table in tables), default=2)
        widest = max((len(table.outside) for table in tables), default=2)
        shape = (len(tables), longest, widest)
        self._seconds = np.zeros(shape)
        self._grids = [np.zeros((shape[0], shape[1])), np.zeros((shape[0], shape[2]))]
        for k, table in enumerate(tables):
            for axis, side in enumerate((table.inside, table.outside)):
                room = shape[axis + 1] - len(side)
                self._grids[axis][k] = [*side, *(side[-1] + 1 + r for r in range(room))]
            pads = [(0, n - have) for n, have in zip(shape[1:], table.seconds.shape, strict=True)]
            self._seconds[k] = np.pad(table.seconds, pads, mode="edge")

    def _sizes(self, values: npt.NDArray[Any]) -> tuple[Vector, Vector]:
        """The inside and outside of every operation, `[operations, b]` each."""
        wide = (values if values.ndim > 1 else values[:, None]).astype(np.float64)
        inside, outside = (
            wide[place] * constant[:, None]
            for place, constant in zip(self._places, self._constants, strict=True)
        )
        return inside, outside

    def _times(self, inside: Vector, outside: Vector) -> Vector:
        """Seconds of every operation, bilinear between the measured sizes, `[operations, b]`."""
        cells, weights = [], []
        for grid, size in zip(self._grids, (inside, outside), strict=True):
            cell = (grid[:, 1:-1, None] <= size[:, None, :]).sum(1)
            low = np.take_along_axis(grid, cell, 1)
            high = np.take_along_axis(grid, cell + 1, 1)
            cells.append(cell)
            weights.append(np.clip((size - low) / (high - low), 0.0, 1.0))
        row = np.arange(len(inside))[:, None]
        (i, j), (u, v) = cells, weights
        below = (1 - v) * self._seconds[row, i, j] + v * self._seconds[row, i, j + 1]
        above = (1 - v) * self._seconds[row, i + 1, j] + v * self._seconds[row, i + 1, j + 1]
        return (1 - u) * below + u * above


def latency_table(
    model: nn.Module,
    example: Any,
    graph: Graph,
    *,
    threads: int | None = None,
    cache: str | Path | bool = True,
    whole: Latency | None = None,
    timer: Timer | None = None,
) -> LatencyTable:
    """Measure the layers of a model on this machine, at full and at smaller sizes.

    Every distinct layer shape is timed alone at up to 5 x 5 sizes (3 x 3 where it takes more than
    30 ms), with made-up tensors, on the model's device. Takes one forward pass, the timing of the
    whole model and about 10 ms (or five runs) a size; nothing where the cache knows it. Memory: the
    tensors of one layer.

    Args:
        model: Left as it was.
        example: What `as_call` accepts; times are those of its shapes.
        graph: Of the same model.
        threads: CPU threads inside an operation; by default as many as PyTorch uses now.
        cache: A folder, True for the usual one (`cache_folder`), or False.
        whole: The timing of the whole model, if it is known.
        timer: Seconds of one call of a function, instead of the clock.

    Example:
        >>> from secateur.graph import analyze
        >>> net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
        >>> x = torch.zeros(16, 64)
        >>> table = latency_table(net, x, analyze(net, x), cache=False)
        >>> abs(table.predict({}) - table.whole.median_ms) < 1e-6
        True
        >>> table.predict({"0": 64}) <= table.predict({})
        True
    """
    call = as_call(model, example)
    tensors = [*model.parameters(), *tensors_in((call.args, dict(call.kwargs)))]
    device = tensors[0].device
    found = find(model, call, graph)
    timed = measure(model, call, threads=threads) if whole is None else whole
    used = threads or torch.get_num_threads()
    folder = folder_of(cache)
    known = TimeCache(folder, conditions(device, used))
    with using(used), torch.no_grad():
        clock = timer or partial(seconds, device=device)
        launch = known.get("launch")
        if launch is None:
            small = nn.Sequential(nn.BatchNorm1d(1), nn.ReLU()).to(device).eval()
            one = torch.full((1, 1), 0.5, device=device)
            launch = known["launch"] = clock(partial(small, one)) / 2
        grids: dict[Job, Grid] = {}
        for job in dict.fromkeys(op.job for op in found.operations):
            users = [op for op in found.operations if op.job == job]
            moves = any(op.inside.names for op in users), any(op.outside.names for op in users)
            grids[job] = _measured(job, moves, device, known, clock)
            known.save()
        stretch = 1.0
        if timer is None and grids:
            job = max(grids, key=lambda job: grids[job].seconds[-1, -1])
            run = job.make(job.inside, job.outside, device)
            alone = float(grids[job].seconds[-1, -1])
            stretch = _stretch(run, alone, timed.median_ms / 1000, device)
    return LatencyTable(found, grids, timed, launch, stretch)


@dataclass(frozen=True)
class Gain:
    """What the smallest reachable plan is predicted to gain.

    before_ms: measured. least_ms: predicted. noise_ms: what cannot be told from no gain.
    """

    before_ms: float
    least_ms: float
    noise_ms: float

    @property
    def possible(self) -> bool:
        """Whether the gain is larger than the noise."""
        return self.before_ms - self.least_ms > self.noise_ms

    def __str__(self) -> str:
        """A sentence for people."""
        least = f"the smallest network that can be reached is predicted to take {self.least_ms:.3g}"
        now = f"the whole one takes {self.before_ms:.3g} ms, give or take {self.noise_ms:.2g} ms"
        if self.possible:
            return f"{least} ms; {now}"
        return f"no plan will be faster on this device: {least} ms, and {now}"


def gain_possible(
    table: LatencyTable, counts: Mapping[str, int], removed: Iterable[str] = ()
) -> Gain:
    """Whether any plan can be faster on this device, before any work.

    counts, removed: the least that every site can keep and all blocks that can go, as
    `secateur.allocate.smallest` gives them. The noise is the error of the difference of two such
    timings (two standard errors), but between 2 % and 10 % of the whole: on a busy machine, a gain
    beyond that would still be seen in a longer timing.
    """
    whole = table.whole
    error = 2 * 2**0.5 * whole.error_ms
    noise = min(max(error, 0.02 * whole.median_ms), 0.1 * whole.median_ms)
    return Gain(whole.median_ms, table.predict(counts, removed), noise)


def seconds(
    run: Callable[[], object],
    *,
    device: torch.device | None = None,
    least: float = 0.006,
    most: float = 0.25,
) -> float:
    """Seconds of one call, the median of at least three timings of many calls in a row.

    Calls are repeated so that one timing takes 0.2 ms at least, and the device is waited for once
    a timing. Stops after `least` seconds and five timings, or `most` and three.

    Example:
        >>> seconds(lambda: None) < 1e-3
        True
    """
    _timing(run, 1, device)
    calls = max(1, min(1000, round(2e-4 / max(_timing(run, 1, device), 1e-9))))
    taken: list[float] = []
    start = perf_counter()
    while True:
        taken.append(_timing(run, calls, device))
        spent = perf_counter() - start
        if (len(taken) >= 5 and spent >= least) or (len(taken) >= 3 and spent >= most):
            return median(taken)


def _timing(run: Callable[[], object], calls: int, device: torch.device | None) -> float:
    """Seconds of one of several calls in a row."""
    start = perf_counter()
    for _ in range(calls):
        run()
    if device is not None and device.type != "cpu":
        torch.accelerator.synchronize(device)
    return (perf_counter() - start) / calls


def _stretch(run: Callable[[], object], alone: float, window: float, device: torch.device) -> float:
    """How much longer a call takes when calls fill the window than in short timings; at least 1.

    A busy machine interrupts long runs, and spares short ones: without this, all of the waiting in
    the whole model's time would count as the rest.
    """
    calls = max(1, round(window / max(alone, 1e-9)))
    number = max(3, min(15, round(2 / max(window, 1e-9))))
    return max(1.0, median(_timing(run, calls, device) for _ in range(number)) / max(alone, 1e-9))


def _measured(
    job: Job, moves: tuple[bool, bool], device: torch.device, known: TimeCache, clock: Timer
) -> Grid:
    """A job at the sizes of its grid; a dimension that cannot change has one size."""

    def at(inside: int, outside: int) -> float:
        key = job.key(inside, outside)
        found = known.get(key)
        if found is None:
            found = known[key] = clock(job.make(inside, outside, device))
        return found

    shares = FEWER if at(job.inside, job.outside) > _SLOW else SHARES
    first = _sizes(job, shares if moves[0] else (1.0,), job.inside, job.kind == "transposed")
    second = _sizes(job, shares if moves[1] else (1.0,), job.outside, job.kind == "conv")
    return Grid(first, second, np.array([[at(i, j) for j in second] for i in first]))


def _sizes(job: Job, shares: Sequence[float], full: int, of_groups: bool) -> tuple[int, ...]:
    return tuple(sorted({min(full, job.sizes(s, full, of_groups=of_groups)) for s in shares}))


def _to_zero(grid: Grid) -> Grid:
    """The grid with size 0 in front of each dimension: the line through the two smallest sizes."""
    table, sides = grid.seconds, [grid.inside, grid.outside]
    for axis, side in enumerate(sides):
        first = np.take(table, 0, axis)
        slope = (np.take(table, 1, axis) - first) / (side[1] - side[0]) if len(side) > 1 else 0.0
        zero = np.maximum(first - np.maximum(slope, 0.0) * side[0], 0.0)
        table = np.concatenate([np.expand_dims(zero, axis), table], axis)
    return Grid((0, *grid.inside), (0, *grid.outside), table)


def _monotone(grid: Grid) -> Grid:
    """The mean of the least monotone table above and the largest below, so monotone itself."""
    above, below = grid.seconds, grid.seconds
    for axis in (0, 1):
        above = np.maximum.accumulate(above, axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis), axis)
    return Grid(grid.inside, grid.outside, (above + below) / 2)
