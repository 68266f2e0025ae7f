"""The clock: what it runs, in which order, and what it puts back. Never how long anything takes."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch import nn

from secateur.core.errors import RecipeError
from secateur.measure import clock

calls_seen: set[tuple[bool, bool, int]] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls_seen.clear()


class Recorder(nn.Module):
    """Remembers in which state it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        calls_seen.add((self.training, torch.is_grad_enabled(), torch.get_num_threads()))
        torch.rand(3)
        return self.dropout(x * self.weight)


def test_a_model_is_timed_in_eval_mode_and_left_as_it_was() -> None:
    model, threads = Recorder().train(), torch.get_num_threads()
    model.dropout.eval()
    random = torch.random.get_rng_state()
    found = clock.measure(model, torch.ones(2), repeats=3, min_time=0, threads=1)
    assert calls_seen == {(False, False, 1)}
    assert model.training
    assert not model.dropout.training
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert gc.isenabled()
    assert (found.runs, found.threads, found.device, found.compiled) == (3, 1, "cpu", False)
    assert found.median_ms > 0
    assert found.spread_ms >= 0


@pytest.mark.parametrize(("threads", "names", "wanted"), [(1, "ab", 4), (2, "ab", 7), (2, "a", 4)])
def test_threads_are_woken_by_a_call_that_is_not_timed(
    threads: int, names: str, wanted: int
) -> None:
    seen: list[str] = []
    runs = {name: partial(seen.append, name) for name in names}
    found = clock.compare(runs, warmup=1, repeats=3, min_time=0, threads=threads)
    assert {name: seen.count(name) for name in names} == dict.fromkeys(names, wanted)
    assert all(times.runs == 3 for times in found.values())


def test_everything_is_put_back_after_an_error() -> None:
    model, threads = Recorder().train(), torch.get_num_threads()
    with pytest.raises(RuntimeError):
        clock.measure(model, torch.ones(3), threads=1)
    assert model.training
    assert torch.get_num_threads() == threads
    assert gc.isenabled()


def test_a_model_can_be_trained_after_it_was_timed() -> None:
    class Caching(nn.Module):
        cache: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.cache is None:
                self.cache = torch.ones(2)
            return x * self.cache

    model = Caching()
    clock.measure(model, torch.ones(2), repeats=1, min_time=0)
    x = torch.ones(2, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None


def test_candidates_take_turns() -> None:
    order: list[str] = []
    runs = {name: partial(order.append, name) for name in "abc"}
    times = clock.compare(runs, warmup=1, repeats=4, min_time=0)
    assert "".join(order) == "abc" * 5
    assert {found.runs for found in times.values()} == {4}


def test_models_in_partials_are_put_in_eval_mode() -> None:
    models = {"a": Recorder().train(), "b": Recorder().eval()}
    runs = {name: partial(model, torch.ones(2)) for name, model in models.items()}
    clock.compare(runs, repeats=1, min_time=0)
    assert {(training, grad) for training, grad, _ in calls_seen} == {(False, False)}
    assert [model.training for model in models.values()] == [True, False]


def test_time_goes_on_for_as_long_as_asked() -> None:
    taken = clock.compare({"a": lambda: None}, repeats=1, min_time=0.02)["a"]
    assert taken.runs > 1


def test_slow_models_are_not_run_for_long() -> None:
    order: list[str] = []
    runs = {name: partial(order.append, name) for name in "ab"}
    times = clock.compare(runs, repeats=1000, max_time=1e-9)
    assert times["a"].runs == 3
    assert len(order) == 2 * (3 + 1)


def test_times_that_scatter_take_longer() -> None:
    steady, scattered = {"a": [1.0, 1.01, 1.0, 1.0]}, {"a": [1.0, 9.0, 1.0, 5.0]}
    for elapsed, wanted in ((0.1, False), (0.3, True), (1.1, True)):
        assert clock._enough(steady, elapsed, 4, 0.2, 10) == wanted
    for elapsed, wanted in ((0.3, False), (0.9, False), (1.1, True)):
        assert clock._enough(scattered, elapsed, 4, 0.2, 10) == wanted


def test_ratio_is_of_the_medians() -> None:
    latency = clock.Latency
    times = {"a": latency(10, 1, 5, 1), "b": latency(4, 1, 5, 1)}
    assert clock.ratio(times, "a", "b") == 2.5


@pytest.mark.slow
def test_compiled() -> None:
    model = nn.Linear(4, 4)
    found = clock.measure(model, torch.ones(1, 4), repeats=1, min_time=0, compile=True)
    assert found.compiled


@pytest.mark.parametrize(
    "arguments",
    [{"repeats": 0}, {"warmup": -1}, {"min_time": float("nan")}, {"max_time": 0}, {"threads": 0}],
)
def test_wrong_arguments(arguments: dict[str, float]) -> None:
    with pytest.raises(RecipeError):
        clock.compare({"a": lambda: None}, **arguments)  # type: ignore[arg-type]


def test_nothing_to_time() -> None:
    with pytest.raises(RecipeError):
        clock.compare({})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_waited_for() -> None:
    model = nn.Linear(4, 4).cuda()
    assert clock.measure(model, torch.ones(1, 4), repeats=2, min_time=0).device != "cpu"
