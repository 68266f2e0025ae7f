"""Schedules: fractions at hand-computed steps, the contract, and what is refused."""

from __future__ import annotations

import pytest

import secateur as sc
from secateur.core.schedule import Schedule
from secateur.testing import check_schedule

SCHEDULES = [
    sc.OneShot(), sc.OneShot(at=7), sc.Steps(1), sc.Steps(4, start=3, every=5),
    sc.Steps([0.5, 1.0], every=10), sc.Linear(0, 100, 7), sc.Linear(5, 100, 10, until=300),
    sc.Cubic(10, 1000, 30), sc.Cubic(0, 3, 1), sc.Constant(10), sc.Constant(10, end=95),
    sc.Phases(10, 20, 30, 200), sc.Phases(0, 5, 5, 0),
    sc.Adaptive(len, tolerance=0.1, start=20, every=10, end=205),
]  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_contract(schedule: Schedule) -> None:
    check_schedule(schedule, steps=2000)


def test_cubic_is_zhu_and_guptas() -> None:
    schedule = sc.Cubic(start=100, end=500, every=50)
    final = 0.9
    for step in range(100, 501, 50):
        theirs = final + (0 - final) * (1 - (step - 100) / 400) ** 3
        assert schedule.fraction(step) * final == pytest.approx(theirs, abs=1e-12)
    assert [step for step in range(700) if schedule.due(step)] == [*range(150, 501, 50)]


def test_the_end_is_due_even_between_updates() -> None:
    schedule = sc.Linear(0, 100, 30)
    assert [step for step in range(200) if schedule.due(step)] == [30, 60, 90, 100]


def test_updates_go_on_until() -> None:
    schedule = sc.Linear(0, 100, 30, until=170)
    assert [step for step in range(300) if schedule.due(step)] == [30, 60, 90, 100, 120, 150]
    assert schedule.last == 150


def test_phases_alternate_and_end_sparse() -> None:
    schedule = sc.Phases(warmup=2, sparse=3, dense=1, end=9)
    assert [int(schedule.fraction(step)) for step in range(14)] == [
        0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1,
    ]  # fmt: skip
    assert [step for step in range(20) if schedule.due(step)] == [2, 5, 6, 9, 10]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: sc.OneShot(at=-1), "at=-1"),
        (lambda: sc.OneShot(at=1.5), "at=1.5"),
        (lambda: sc.Steps(0), "parts=0"),
        (lambda: sc.Steps([0.5, 0.4, 1.0]), "rising"),
        (lambda: sc.Steps([0.5]), "end at 1"),
        (lambda: sc.Linear(10, 10, 1), "ends before it starts"),
        (lambda: sc.Cubic(0, 50, 100), "no update"),
        (lambda: sc.Linear(0, 100, 10, until=50), "until=50"),
        (lambda: sc.Constant(every=True), "every=True"),
        (lambda: sc.Phases(sparse=0), "sparse=0"),
        (lambda: sc.Adaptive(None, 0.1), "metric"),  # type: ignore[arg-type]
        (lambda: sc.Adaptive(len, -1), "tolerance"),
        (lambda: sc.Adaptive(len, 0.1, by=0.0), "by"),
    ],
)
def test_nonsense_is_refused(make: object, what: str) -> None:
    with pytest.raises(sc.SecateurError, match=what):
        make()  # type: ignore[operator]
