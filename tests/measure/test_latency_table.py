"""The latency table: exact where times are bilinear, monotone always, and what it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.allocate import Nanoseconds, allocate, smallest
from secateur.core.batches import as_call
from secateur.core.measured import Latency
from secateur.graph import analyze
from secateur.measure.cost import Cost
from secateur.measure.latency_jobs import find
from secateur.measure.latency_table import (
    Grid,
    LatencyTable,
    _monotone,
    _stretch,
    _to_zero,
    gain_possible,
    latency_table,
    seconds,
)
from secateur.score import Facts, scores
from secateur.units import Channel, Layer, sites


class Residual(nn.Module):
    """A block that can go."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), Residual(16), nn.Linear(16, 3)), torch.ones(
        5, 4
    )


def per_element(run: Callable[[], Any]) -> float:
    """A microsecond for every element of the output: bilinear, so interpolated exactly."""
    return 1e-6 * run().numel()


def whole(milliseconds: float, spread: float = 0.0) -> Latency:
    return Latency(milliseconds, spread, 100, 1)


def made(milliseconds: float = 10.0, **more: Any) -> LatencyTable:
    model, x = network()
    more = {"cache": False, "timer": per_element, "whole": whole(milliseconds), **more}
    return latency_table(model, x, analyze(model, x), **more)


FULL = 5 * (16 + 32 + 16 + 3)  # outputs of all linear layers, so microseconds


@pytest.mark.parametrize("counts", [{}, {"0": 7}, {"0": 1, "2.inner.0": 30}, {"2.inner.0": 1}])
def test_it_is_the_sum_and_the_rest(counts: dict[str, int]) -> None:
    table = made()
    stream, hidden = counts.get("0", 16), counts.get("2.inner.0", 32)
    outputs = 5 * (stream + hidden + stream + 3)
    launches = 3 * 0.5e-3  # two ReLUs and a sum, at half the time of two operations
    rest = 10.0 - FULL * 1e-3
    assert table.rest_ms == pytest.approx(rest)
    expected = outputs * 1e-3 + launches + (rest - launches) * outputs / FULL
    assert table.predict(counts) == pytest.approx(expected)


def test_operations_that_take_longer_than_the_model_are_scaled_to_it() -> None:
    table = made(0.1)
    assert table.rest_ms == 0
    assert table.predict({}) == pytest.approx(0.1)
    assert table.predict({"2.inner.0": 16}) == pytest.approx(0.1 * (FULL - 80) / FULL)


def test_on_a_busy_machine_operations_count_for_what_they_take_in_long_runs() -> None:
    model, x = network()
    graph = analyze(model, x)
    alone = made()
    found = find(model, as_call(model, x), graph)
    grids = {
        op.job: Grid((op.job.inside,), (op.job.outside,), np.array([[5e-6 * op.job.outside]]))
        for op in found.operations
    }
    busy = LatencyTable(found, grids, whole(10.0), 0.0, stretch=3.0)
    assert alone.rest_ms == pytest.approx(10.0 - FULL * 1e-3)
    assert busy.rest_ms == pytest.approx(10.0 - 3 * FULL * 1e-3)
    assert busy.predict({}) == pytest.approx(10.0)
    swamped = LatencyTable(found, grids, whole(10.0), 0.0, stretch=100.0)
    assert swamped.rest_ms == 0 and swamped.predict({}) == pytest.approx(10.0)


def test_the_stretch_is_at_least_one() -> None:
    calls = []
    cpu = torch.device("cpu")
    assert _stretch(lambda: calls.append(1), 1.0, 10.0, cpu) == 1.0
    assert len(calls) == 10 * 3  # ten fill the window, three times
    assert _stretch(lambda: None, 1e-12, 1e-9, cpu) > 1.0


def test_a_removed_block_takes_its_operations_along() -> None:
    table = made()
    left = 5 * (16 + 3)
    rest = 10.0 - FULL * 1e-3
    expected = left * 1e-3 + 0.0015 * 2 / 4 + (rest - 0.0015) * left / FULL
    assert table.predict({}, ["2"]) == pytest.approx(expected)
    assert table.predict({}, ["2.inner", "nothing"]) == pytest.approx(expected)


def test_many_points_are_what_each_alone_is() -> None:
    table = made()
    counts = np.arange(1, 17)
    many = table.ns({"0": counts, "2.inner.0": 9}, ["3"])
    assert many.tolist() == [table.ns({"0": int(n), "2.inner.0": 9}, ["3"]) for n in counts]
    assert isinstance(table.ns({}), int) and table.ns({}) == 10_000_000


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 15), st.integers(1, 31))
def test_more_is_never_faster_however_times_scatter(seed: int, stream: int, hidden: int) -> None:
    rng = np.random.default_rng(seed)
    table = made(timer=lambda run: float(rng.exponential(1e-4)))
    here = table.ns({"0": stream, "2.inner.0": hidden})
    assert here >= 0
    assert table.ns({"0": stream + 1, "2.inner.0": hidden}) >= here
    assert table.ns({"0": stream, "2.inner.0": hidden + 1}) >= here
    assert table.ns({"0": stream, "2.inner.0": hidden}, ["2"]) <= here
    assert table.predict({}) == pytest.approx(10.0)


def test_a_monotone_table_stays_and_any_other_becomes_one() -> None:
    rng = np.random.default_rng(0)
    rising = np.cumsum(np.cumsum(rng.random((4, 3)), 0), 1)
    sides = (1, 2, 3, 4), (1, 2, 3)
    assert np.array_equal(_monotone(Grid(*sides, rising)).seconds, rising)
    for _ in range(20):
        found = _monotone(Grid(*sides, rng.random((4, 3)))).seconds
        assert (np.diff(found, axis=0) >= 0).all() and (np.diff(found, axis=1) >= 0).all()


def test_the_line_goes_on_to_zero_but_not_below() -> None:
    grid = _to_zero(Grid((2, 4), (3,), np.array([[1.0], [1.5]])))
    assert grid.inside == (0, 2, 4) and grid.outside == (0, 3)
    assert grid.seconds[:, 1].tolist() == [0.5, 1.0, 1.5]
    steep = _to_zero(Grid((2, 4), (3,), np.array([[1.0], [9.0]])))
    assert steep.seconds[0, 1] == 0.0
    falling = _to_zero(Grid((2, 4), (3,), np.array([[1.0], [0.5]])))
    assert falling.seconds[0, 1] == 1.0


def sizes(stream: set[int], hidden: set[int]) -> set[tuple[int, int]]:
    """All (inside, outside) of the network's layers, each shape once."""
    pairs = [({4}, stream), (stream, hidden), (hidden, stream), (stream, {3})]
    return {(i, j) for inside, outside in pairs for i in inside for j in outside}


def test_nothing_is_timed_twice_or_where_the_cache_knows_it(tmp_path: Path) -> None:
    calls = []

    def counted(run: Callable[[], Any]) -> float:
        calls.append(run)
        return per_element(run)

    first = made(cache=tmp_path, timer=counted)
    assert len(calls) == 1 + len(sizes({16, 12, 8, 4, 2}, {32, 24, 16, 8, 4}))
    second = made(cache=tmp_path, timer=counted)
    assert len(calls) == 1 + len(sizes({16, 12, 8, 4, 2}, {32, 24, 16, 8, 4}))
    assert second.predict({"0": 5}) == first.predict({"0": 5})


def test_slow_layers_are_timed_at_fewer_sizes() -> None:
    calls = []
    made(timer=lambda run: calls.append(run) or 0.1)
    assert len(calls) == 1 + len(sizes({16, 8, 4}, {32, 16, 8}))


def test_the_default_place_is_used_and_threads_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "mine"))
    before = torch.get_num_threads()
    seen = set()

    def timer(run: Callable[[], Any]) -> float:
        seen.add(torch.get_num_threads())
        return per_element(run)

    made(cache=True, timer=timer, threads=before + 1)
    assert seen == {before + 1} and torch.get_num_threads() == before
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_a_model_without_linear_operations_is_all_rest() -> None:
    model = nn.ReLU()
    x = torch.ones(2, 3)
    table = latency_table(model, x, analyze(model, x), cache=False, whole=whole(2.0))
    assert table.predict({}) == 2.0
    assert table.ns({}) == 2_000_000


def test_a_budget_in_time_is_met_by_the_prediction() -> None:
    model, x = network()
    graph = analyze(model, x)
    table = latency_table(model, x, graph, cache=False, timer=per_element, whole=whole(10.0))
    places = sites(graph, [Channel(), Layer()], None, model)
    cost = Cost(graph, model, table=table)
    scored = scores("l1", places, Facts.of(model))
    for how in ("global", "uniform", "knapsack"):
        found = allocate(places, graph.ties, scored, cost, Nanoseconds(6_000_000), how)
        counts = {name: len(kept) for name, kept in found.kept.items()}
        assert found.after.ns == table.ns(counts, found.removed) <= 6_000_000
        assert found.before.ns == 10_000_000
        for name, kept in counts.items():
            if kept < graph.axes[name].n:
                assert table.ns({**counts, name: kept + 1}, found.removed) > 6_000_000


def test_it_is_said_when_no_plan_can_be_faster() -> None:
    model, x = network()
    graph = analyze(model, x)
    places = sites(graph, Channel(), None, model)
    counts, removed = smallest(places, graph.ties)
    assert counts == {"0": 1, "2.inner.0": 1} and removed == ()
    good = gain_possible(made(), counts, removed)
    assert good.possible and good.before_ms == 10.0 and good.noise_ms == pytest.approx(0.2)
    flat = gain_possible(made(4.0, timer=lambda run: 1e-3), counts, removed)
    assert not flat.possible
    assert str(flat).startswith("no plan will be faster on this device: the smallest network")
    nothing = gain_possible(made(), {}, ())
    assert not nothing.possible and nothing.least_ms == pytest.approx(10.0)
    noisy = gain_possible(made(whole=whole(10.0, spread=50.0)), counts, removed)
    assert noisy.noise_ms == pytest.approx(1.0) and noisy.possible


def test_the_clock_counts_calls() -> None:
    calls = []
    taken = seconds(lambda: calls.append(1), least=0.0)
    assert taken > 0 and len(calls) >= 5
    calls.clear()
    seconds(lambda: calls.append(1), least=10.0, most=0.0)
    assert len(calls) >= 3


@pytest.mark.slow
def test_a_real_table_of_a_convolution_with_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3))
    x = torch.randn(4, 3, 32, 32)
    table = latency_table(model.eval(), x, analyze(model, x), cache=False)
    assert 0 < table.predict({"0": 1}) <= table.predict({})
    assert table.predict({}) == pytest.approx(table.whole.median_ms)
