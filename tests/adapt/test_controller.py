"""The controller under load, noise and fault, in simulated time."""

import random
from collections.abc import Callable
from itertools import pairwise
from threading import Event as Flag
from threading import Thread

import pytest
import torch
from adapting import perceptron

import secateur as sc
from secateur.adapt import Controller, Dial
from secateur.core.errors import RecipeError
from secateur.core.measured import Latency


@pytest.fixture(scope="module")
def shared() -> Dial:
    net, x = perceptron()
    return sc.dial(net, x)


@pytest.fixture
def dial(shared: Dial) -> Dial:
    shared.set(1.0)
    shared.table = {level: Latency(10 * level, 0.1, 100, 1) for level in shared.levels}
    return shared


def serve(
    dial: Dial,
    controller: Controller | None,
    rate: Callable[[float], float],
    seconds: float,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """One server with a queue; arrivals at random. When each request came, and its latency."""
    rng, now, free, done = random.Random(seed), 0.0, 0.0, list[tuple[float, float]]()
    while now < seconds:
        now += rng.expovariate(rate(now))
        level = dial.level
        free = max(now, free) + 0.010 * level * rng.uniform(0.9, 1.1)
        done.append((now, 1000 * (free - now)))
        if controller is not None:
            controller.observe(done[-1][1], level)
    return done


def percentile(latencies: list[float], share: float = 0.95) -> float:
    return sorted(latencies)[int(share * len(latencies))]


def tripling(now: float) -> float:
    return 40.0 if now < 20 else 120.0


def test_the_percentile_holds_while_the_load_triples(dial: Dial) -> None:
    controller = Controller(dial, target_ms=40)
    controlled = serve(dial, controller, tripling, 60)
    dial.set(1.0)
    fixed = serve(dial, None, tripling, 60)
    for done, holds in ((controlled, True), (fixed, False)):
        assert percentile([ms for at, ms in done if at < 20]) <= 40
        assert (percentile([ms for at, ms in done if at > 22]) <= 40) == holds
    # quality is not given away where there is no load
    assert controller.events[0].number > 600
    assert all(event.why for event in controller.events)


def test_the_dial_comes_back_when_the_load_is_gone(dial: Dial) -> None:
    controller = Controller(dial, target_ms=40)
    serve(dial, controller, lambda now: 150.0 if now < 10 else 20.0, 60)
    assert min(event.after for event in controller.events) < 1.0
    assert dial.level == 1.0


def test_noise_does_not_make_it_swing(dial: Dial) -> None:
    """Between two levels, where the smaller one holds and the larger one does not."""
    controller, rng = Controller(dial, target_ms=8.5), random.Random(1)
    for _ in range(20_000):
        controller.observe(10 * dial.level * rng.uniform(0.9, 1.1))
    assert len(controller.events) <= 3
    assert controller.late < 100
    assert dial.level == 0.75


def test_failed_tries_get_rare(dial: Dial) -> None:
    """The table promises what the machine does not keep: every try is taken back, later each."""
    dial.table = {level: Latency(10, 0.1, 100, 1) for level in dial.levels}
    controller = Controller(dial, target_ms=20)
    for _ in range(20_000):
        controller.observe(30.0 if dial.level == 1.0 else 5.0)
    ups = [event.number for event in controller.events if event.after == 1.0]
    gaps = [after - before for before, after in pairwise(ups)]
    assert 2 < len(ups) < 12
    assert gaps == sorted(gaps)
    assert controller.late / controller.observed < 0.05


def test_the_floor_is_never_crossed_and_that_is_said_once(dial: Dial) -> None:
    controller = Controller(dial, target_ms=1, floor=0.5)
    for _ in range(500):
        controller.observe(100.0)
        assert dial.level >= 0.5
    assert [event.after for event in controller.events] == [0.5, 0.5]
    assert "smallest level allowed" in controller.events[-1].why
    dial.set(0.25)
    assert Controller(dial, target_ms=1, floor=0.5).dial.level == 0.5


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -5.0, -1e12])
def test_latencies_that_make_no_sense_change_nothing(dial: Dial, wrong: float) -> None:
    controller = Controller(dial, target_ms=20)
    for _ in range(300):
        controller.observe(wrong)
        controller.observe(10.0)
    assert (controller.observed, controller.ignored, len(controller.events)) == (300, 300, 0)
    assert "300 latencies that made no sense" in str(controller)


def test_a_single_stall_decides_nothing(dial: Dial) -> None:
    controller = Controller(dial, target_ms=20)
    for k in range(1000):
        controller.observe(60_000.0 if k in (0, 300, 600) else 12.0)
    assert len(controller.events) == 0
    assert controller.late == 3


def test_a_clock_that_jumps(dial: Dial) -> None:
    ticks = iter([0.0, 0.010, 5.0, 1.0, 1.0, 9e9, *[9e9] * 40])
    controller, x = Controller(dial, target_ms=20, clock=lambda: next(ticks)), torch.randn(1, 6)
    for _ in range(20):
        controller(x)
    assert (controller.ignored, controller.late, dial.level) == (1, 1, 1.0)


def test_a_request_that_hangs_stops_nobody(dial: Dial) -> None:
    controller, go, x = Controller(dial, target_ms=20), Flag(), torch.randn(1, 6)
    started = Flag()

    def hang(*_: object) -> None:
        started.set()
        go.wait(30)

    handle = dial.dense.register_forward_pre_hook(hang)
    thread = Thread(target=controller, args=(x,))
    thread.start()
    started.wait(30)
    handle.remove()
    for _ in range(8):
        controller.observe(36.0)
    assert dial.level == 0.5  # decided while a request hangs
    go.set()
    thread.join()
    assert controller.observed == 9


def test_requests_of_an_earlier_level_decide_nothing(dial: Dial) -> None:
    controller = Controller(dial, target_ms=20)
    for _ in range(8):
        controller.observe(25.0, level=1.0)
    assert dial.level == 0.75
    for _ in range(50):
        controller.observe(90.0, level=1.0)
    assert dial.level == 0.75


def test_it_runs_the_dial(dial: Dial) -> None:
    x = torch.randn(3, 6)
    controller = Controller(dial, target_ms=1e9)
    assert torch.equal(controller(x), dial(x))
    assert controller.observed == 1
    assert "level 1; 1 request, 0.0% late" in str(controller)


def test_what_makes_no_sense_is_refused(dial: Dial) -> None:
    for wrong in (
        {"target_ms": 0},
        {"target_ms": 5, "percentile": 100},
        {"target_ms": 5, "floor": 0.3},
    ):
        with pytest.raises(RecipeError):
            Controller(dial, **wrong)  # type: ignore[arg-type]
