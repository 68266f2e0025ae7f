"""The check of schedules finds what is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from secateur.core.schedule import Linear, Schedule
from secateur.testing import check_schedule


@dataclass(frozen=True)
class Wrong(Schedule):
    """Right, but for one thing."""

    what: str = ""

    def fraction(self, step: int) -> float:
        if self.what == "falls" and step == 15:
            return 0.1
        if self.what == "large" and step == 15:
            return 1.5
        if self.what == "early" and step >= -1:
            return max(0.1, min(1.0, step / 20))
        if self.what == "short":
            return max(0.0, min(0.9, (step - 1) / 20))
        return max(0.0, min(1.0, (step - 1) / 20))

    def due(self, step: int) -> bool:
        return self.what != "never" and 0 < step <= 21 and step % 7 == 0

    @property
    def last(self) -> int | None:
        return 14 if self.what == "last" else 21

    @property
    def final(self) -> int:
        return 21


def test_a_right_one_passes() -> None:
    check_schedule(Wrong(), steps=50)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("falls", "falls at step 15"),
        ("large", "is 1.5"),
        ("early", "before training"),
        ("short", "not 1"),
        ("never", "no update is due"),
        ("last", "the last update"),
    ],
)
def test_wrong_ones_are_found(what: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_schedule(Wrong(what), steps=50)


def test_too_few_steps() -> None:
    with pytest.raises(AssertionError, match="give more steps"):
        check_schedule(Linear(0, 100, 10), steps=50)
