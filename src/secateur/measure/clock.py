"""Latency, measured: warmed up, synchronised, interleaved, and reported with its spread."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import nn

from secateur.core.batches import as_call, tensors_in, untouched
from secateur.core.errors import RecipeError
from secateur.core.measured import Latency
from secateur.core.threads import using

_MOST_RUNS = 10_000
_LEAST_RUNS = 3


def measure(
    model: nn.Module,
    example: Any,
    *,
    warmup: int = 3,
    repeats: int = 20,
    min_time: float = 0.2,
    max_time: float = 10.0,
    threads: int | None = None,
    compile: bool = False,
) -> Latency:
    """Time one model on one example, in eval mode.

    Args:
        model: Left as it was: mode, gradients, random state, thread count.
        example: What `as_call` accepts.
        warmup: Calls before anything is timed.
        repeats: The fewest timed calls.
        min_time: Seconds that are timed at least; up to five times as many where they scatter.
        max_time: Seconds after which three calls are enough.
        threads: CPU threads inside an operation; by default as many as PyTorch uses now.
        compile: Time `torch.compile(model)`; compiling happens in the warm-up.

    Example:
        >>> measure(nn.Linear(2, 2), torch.zeros(1, 2), repeats=5, min_time=0).runs
        5

    Raises:
        RecipeError: A number makes no sense.
    """
    call = as_call(model, example)
    run: Any = torch.compile(model, dynamic=False) if compile else model
    timed = compare(
        {"model": partial(call.run, run)},
        warmup=warmup,
        repeats=repeats,
        min_time=min_time,
        max_time=max_time,
        threads=threads,
        device=_device(model, call),
        models=[model],
        compiled=compile,
    )
    return timed["model"]


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 3,
    repeats: int = 20,
    min_time: float = 0.2,
    max_time: float = 10.0,
    threads: int | None = None,
    device: torch.device | None = None,
    models: Iterator[nn.Module] | list[nn.Module] | None = None,
    compiled: bool = False,
) -> dict[str, Latency]:
    """Time several callables in one run, in turns, so that a busy machine is unfair to none.

    With several threads on the CPU, each timed call comes after one that is not timed: it wakes the
    threads of its library, and those of the library before, which wait busily, go to sleep.

    Args:
        candidates: Name -> callable without arguments. Models that they hold through
            `functools.partial` are timed in eval mode and restored.
        warmup: Rounds before anything is timed.
        repeats: The fewest timed rounds.
        min_time: Seconds by candidate that are timed at least; up to five times as many where the
            times scatter.
        max_time: Seconds by candidate after which three rounds are enough.
        threads: CPU threads inside an operation; by default as many as PyTorch uses now.
        device: Where the work runs; by default read off the models and tensors in the callables.
        models: Further modules to put in eval mode and restore.
        compiled: Said in the result.

    Example:
        >>> a, b = torch.zeros(8, 8), torch.zeros(64, 64)
        >>> times = compare({"small": lambda: a @ a, "large": lambda: b @ b}, min_time=0)
        >>> ratio(times, "small", "large") > 0
        True

    Raises:
        RecipeError: There is nothing to time, or a number makes no sense.
    """
    _check(candidates, warmup, repeats, min_time, threads)
    if not max_time > 0:
        raise RecipeError(f"max_time={max_time!r}: expected seconds, above 0")
    found, device_found = _inside(candidates.values())
    where = device or device_found
    wait = None if where.type == "cpu" else partial(torch.accelerator.synchronize, where)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with _quiet([*found, *(models or ())], threads):
        start, most = perf_counter(), max_time * len(candidates)
        for _ in range(warmup):
            for run in candidates.values():
                _once(run, wait)
            if perf_counter() - start > most / 4:
                break
        start, used = perf_counter(), torch.get_num_threads()
        pools = used > 1 and where.type == "cpu" and len(candidates) > 1
        while not _enough(seconds, perf_counter() - start, repeats, min_time, max_time):
            for name, run in candidates.items():
                if pools:
                    run()
                seconds[name].append(_once(run, wait))
    label = torch.cuda.get_device_name(where) if where.type == "cuda" else str(where)
    return {name: summary(taken, used, label, compiled) for name, taken in seconds.items()}


def ratio(times: Mapping[str, Latency], before: str, after: str) -> float:
    """How many times as fast `after` is as `before`, by the medians."""
    return times[before].median_ms / max(times[after].median_ms, 1e-9)


def _once(run: Callable[[], object], wait: Callable[[], object] | None) -> float:
    if wait is not None:
        wait()
    start = perf_counter()
    run()
    if wait is not None:
        wait()
    return perf_counter() - start


def _enough(
    seconds: Mapping[str, list[float]],
    elapsed: float,
    repeats: int,
    min_time: float,
    max_time: float,
) -> bool:
    """Whether there are runs enough; where they scatter, up to five times as long is spent."""
    runs, each = min(len(taken) for taken in seconds.values()), elapsed / len(seconds)
    if runs >= _MOST_RUNS or (runs >= _LEAST_RUNS and each >= max_time):
        return True
    if runs < repeats or each < min_time:
        return False
    return each >= 5 * min_time or all(steady(taken) for taken in seconds.values())


def steady(seconds: list[float]) -> bool:
    """Whether the middle half of the times lies within a tenth of their median."""
    if len(seconds) < 2:
        return True
    low, middle, high = quantiles(seconds, n=4)
    return high - low <= 0.1 * middle


def summary(seconds: list[float], threads: int, device: str, compiled: bool) -> Latency:
    """Seconds of single runs as a latency."""
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    spread = 1000 * (high - low)
    return Latency(1000 * median(seconds), spread, len(seconds), threads, device, compiled)


@contextmanager
def _quiet(models: list[nn.Module], threads: int | None) -> Iterator[None]:
    """No gradients, no garbage collection, the wanted threads; everything is put back.

    Not `inference_mode`: what a model caches in its first run could then never be trained with.
    """
    collecting = gc.isenabled()
    try:
        gc.disable()
        with using(threads), untouched(nn.ModuleList(models)), torch.no_grad():
            yield
    finally:
        if collecting:
            gc.enable()


def _inside(runs: Any) -> tuple[list[nn.Module], torch.device]:
    """The modules in callables made with `functools.partial`, and the device of their tensors."""
    modules: list[nn.Module] = []
    device: torch.device | None = None
    for run in runs:
        values = [run, getattr(run, "__self__", None)]
        if isinstance(run, partial):
            bound = getattr(run.func, "__self__", None)
            values = [run.func, bound, *run.args, *run.keywords.values()]
        modules += [value for value in values if isinstance(value, nn.Module)]
        for value in values:
            device = device or _first_device(value)
    return modules, device or torch.device("cpu")


def _first_device(value: Any) -> torch.device | None:
    if isinstance(value, nn.Module):
        return next((t.device for t in [*value.parameters(), *value.buffers()]), None)
    return next((tensor.device for tensor in tensors_in(value)), None)


def _device(model: nn.Module, call: Any) -> torch.device:
    return _first_device(model) or _first_device(call) or torch.device("cpu")


def _check(
    candidates: Mapping[str, object],
    warmup: int,
    repeats: int,
    min_time: float,
    threads: int | None,
) -> None:
    if not candidates:
        raise RecipeError("there is nothing to time")
    for name, value, least in (("warmup", warmup, 0), ("repeats", repeats, 1)):
        if value < least:
            raise RecipeError(f"{name}={value!r}: expected at least {least}")
    if not 0 <= min_time < float("inf"):
        raise RecipeError(f"min_time={min_time!r}: expected seconds, at least 0")
    if threads is not None and threads < 1:
        raise RecipeError(f"threads={threads!r}: expected at least 1")
