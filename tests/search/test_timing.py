"""Timings in turns: the bound on a later one, batches, and what is said. Never how long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from building import wide_case
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.budget import Latency as LatencyBudget
from secateur.core.errors import RecipeError
from secateur.core.measured import Latency
from secateur.search.timing import (
    _T95,
    BLOCKS,
    LATER,
    Timing,
    later_at_most,
    rebatch,
    slower_note,
    time_pair,
)


@pytest.mark.parametrize("n", [2, 4, 6, 12])
def test_a_later_value_is_within_the_bound_in_19_of_20_cases(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.normal(5.0, 0.7, size=(4000, n + LATER))
    held = np.mean([row[n:].mean() <= later_at_most(list(row[:n])) for row in draws])
    assert held == pytest.approx(0.95, abs=0.015)


def test_the_quantiles_are_those_of_student() -> None:
    stats = pytest.importorskip("scipy.stats")
    for k, value in enumerate(_T95):
        assert value == pytest.approx(stats.t.ppf(0.95, k + 1), abs=1e-3)


def test_what_is_clearly_too_slow_is_timed_a_few_times_only() -> None:
    model, _build, call = wide_case(64)
    deep = nn.Sequential(*[model[:-1], *[nn.Linear(64, 64)] * 40, model[-1]])
    timing = time_pair(model, deep, call, LatencyBudget("50%"), seconds=0)
    assert timing.after.runs < 3 * BLOCKS and timing.margin < 0


def test_a_clearly_smaller_network_meets_a_generous_share() -> None:
    model, _build, call = wide_case()
    small, _, _ = wide_case(32)
    timing = time_pair(model, small, call, LatencyBudget("90%", threads=1), seconds=0.01)
    assert timing.margin >= 0
    assert timing.faster
    assert slower_note(timing) is None
    assert timing.before.threads == timing.after.threads == 1
    assert timing.after.runs >= 3 * BLOCKS
    assert timing.value < timing.bound <= timing.limit == 0.9


def test_the_same_network_is_not_faster_and_milliseconds_are_absolute() -> None:
    model, _build, call = wide_case(64)
    timing = time_pair(model, model, call, LatencyBudget(ms=1e6), seconds=0)
    assert timing.limit == 1e6
    assert timing.value == pytest.approx(timing.after.median_ms, rel=0.5)
    assert timing.margin > 0.9


def test_what_is_slower_is_said() -> None:
    quick, slow = Latency(1.0, 0.01, 100, 2), Latency(2.0, 0.01, 100, 2)
    note = slower_note(Timing(quick, slow, 2.0, 2.1, 0.6))
    assert note is not None
    assert note.startswith("not faster on this device: 2.00 ms")
    assert slower_note(Timing(slow, quick, 0.5, 0.51, 0.6)) is None
    assert slower_note(Timing(quick, quick, 1.0, 1.01, 0.6)) is not None


class Seen(nn.Module):
    """Remembers how many samples it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.sizes: set[int] = set()

    def forward(self, x: Tensor, mask: Any = None) -> Tensor:
        self.sizes.add(len(x))
        return x * self.weight


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_is_what_was_asked_for(batch: int) -> None:
    sizes: list[int] = []
    model = Seen()
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    call = Call((torch.randn(3, 4),), {"mask": torch.ones(3)})
    time_pair(model, model, call, LatencyBudget("100%", batch=batch), seconds=0)
    assert set(sizes) == {batch}
    here = rebatch(call, batch)
    assert here.args[0].shape == (batch, 4)
    assert here.kwargs["mask"].shape == (batch,)
    assert rebatch(call, None) is call


def test_a_batch_needs_a_common_dimension() -> None:
    for call in (Call((torch.zeros(2, 3), torch.zeros(3)), {}), Call((torch.tensor(1.0),), {})):
        with pytest.raises(RecipeError, match="no first dimension in common"):
            rebatch(call, 1)
