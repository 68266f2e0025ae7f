"""Two models timed in turns, again and again: what a later timing will give at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, stdev

from torch import nn

from secateur.core.batches import Call, map_tensors, tensors_in
from secateur.core.budget import Latency as LatencyBudget
from secateur.core.errors import RecipeError
from secateur.core.measured import Latency
from secateur.measure.clock import compare

BLOCKS = 6
"""Timings of both models, each a block of turns."""
LATER = 4
"""Blocks that a usual timing is as long as (`compare` and `measure`, by default)."""
_FEW_BLOCKS = 3
"""Where not one of them meets the budget."""
MOST_BLOCKS = 18
"""Where the median meets the budget, but the bound does not yet."""
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782)
_T95 += (1.771, 1.761, 1.753, 1.746, 1.740)
_SLACK = 0.04
"""What timings differ from one session to another beyond what is seen in one, as a share."""


@dataclass(frozen=True)
class Timing:
    """The original and a trial on the same call.

    before, after: pooled over all blocks. value: what the budget limits (the ratio of the medians,
    or milliseconds); bound: what a later timing of it will give at most in 19 of 20 cases; limit:
    what is allowed.
    """

    before: Latency
    after: Latency
    value: float
    bound: float
    limit: float

    @property
    def margin(self) -> float:
        """How far inside the bound is, as a share of the limit."""
        return (self.limit - self.bound) / self.limit

    @property
    def faster(self) -> bool:
        """Whether the trial is faster than the original beyond the noise."""
        noise = math.hypot(self.before.error_ms, self.after.error_ms)
        return self.before.median_ms - self.after.median_ms > 2 * noise


def time_pair(
    original: nn.Module, model: nn.Module, call: Call, budget: LatencyBudget,
    *, seconds: float = 0.05, most_seconds: float = 2.0,
) -> Timing:  # fmt: skip
    """Time a trial against the original, in turns, until its bound or its median decides.

    seconds: that a block times each model at least; most_seconds: after which three calls are
    enough.

    Example:
        >>> from secateur.core.batches import as_call
        >>> small, large = nn.Linear(8, 1), nn.Linear(8, 4)
        >>> call = as_call(large, torch.zeros(4, 8))
        >>> timing = time_pair(large, small, call, LatencyBudget("100%"), seconds=0)
        >>> timing.bound >= timing.value > 0
        True
    """
    here = rebatch(call, budget.batch)
    runs = {"before": partial(here.run, original), "after": partial(here.run, model)}
    found: list[dict[str, Latency]] = []
    relative = isinstance(budget.limit, str)
    while len(found) < MOST_BLOCKS:
        warmup = 1 if found else 3
        found.append(
            compare(
                runs, warmup=warmup, repeats=3, min_time=seconds, max_time=most_seconds,
                threads=budget.threads,
            )
        )  # fmt: skip
        values = [_value(block, relative) for block in found]
        limit = budget.ceiling(1.0) if relative else budget.ceiling(math.nan)
        bound = later_at_most(values) * (1 + _SLACK) if len(values) > 1 else math.inf
        if len(found) >= BLOCKS and (bound <= limit or median(values) > limit):
            break
        if len(found) >= _FEW_BLOCKS and min(values) > limit:
            break
    before, after = (_pooled([block[name] for block in found]) for name in ("before", "after"))
    return Timing(before, after, median(values), bound, limit)


def later_at_most(values: Sequence[float]) -> float:
    """What the mean of `LATER` more values is at most, in 19 of 20 cases (a prediction bound).

    Example:
        >>> round(later_at_most([1.0, 1.1, 0.9, 1.0]), 2)
        1.14
    """
    n = len(values)
    spread = stdev(values) * math.sqrt(1 / LATER + 1 / n)
    return sum(values) / n + _T95[min(n - 1, len(_T95)) - 1] * spread


def rebatch(call: Call, batch: int | None) -> Call:
    """The call with so many samples, repeated where there are too few; None leaves it as it is.

    The first dimension of all inputs is taken to be the samples'.

    Example:
        >>> rebatch(Call((torch.arange(3),), {}), 5).args[0]
        tensor([0, 1, 2, 0, 1])

    Raises:
        RecipeError: The inputs do not have their first dimension in common.
    """
    if batch is None:
        return call
    inputs = (call.args, dict(call.kwargs))
    sizes = {t.shape[0] if t.dim() else 0 for t in tensors_in(inputs)}
    size = sizes.pop()
    if sizes or not size:
        raise RecipeError(
            f"Latency(batch={batch}): the inputs have no first dimension in common",
            hint="give an example with as many samples as are to be timed, and no batch=",
        )
    return Call(*map_tensors(inputs, lambda t: t[[k % size for k in range(batch)]]))


def slower_note(timing: Timing) -> str | None:
    """A sentence for the report if the trial is not faster than the original here."""
    if timing.faster:
        return None
    return (
        f"not faster on this device: {timing.after} where the original takes {timing.before}; "
        f"{timing.after.conditions}"
    )


def _value(block: dict[str, Latency], relative: bool) -> float:
    after = block["after"].median_ms
    return after / max(block["before"].median_ms, 1e-9) if relative else after


def _pooled(blocks: Sequence[Latency]) -> Latency:
    first = blocks[0]
    middle, spread = median(b.median_ms for b in blocks), median(b.spread_ms for b in blocks)
    runs = sum(b.runs for b in blocks)
    return Latency(middle, spread, runs, first.threads, first.device, first.compiled)
