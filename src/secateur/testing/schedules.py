"""The contract of schedules."""

from __future__ import annotations

from secateur.core.schedule import Schedule


def check_schedule(schedule: Schedule, steps: int = 10_000) -> None:
    """Prove that a schedule keeps its contract over the first `steps` steps.

    It is pure; its fraction lies in [0, 1], is 0 before the first step and 1 at `final`, where an
    update is due; it never falls, unless it says that it may (`monotone = False`); the last update
    is at `last`, and applies the whole sparsity.

    Example:
        >>> check_schedule(sc.Cubic(start=10, end=1000, every=90))

    Raises:
        AssertionError: It does not; the message says what was given and what went wrong.
    """
    name = repr(schedule)
    fractions = [schedule.fraction(step) for step in range(-1, steps + 1)]
    due = [step for step in range(steps + 1) if schedule.due(step)]
    again = [schedule.fraction(step) for step in range(-1, steps + 1)]
    assert fractions == again, f"{name}: fraction(step) is not the same when asked twice"
    for step, part in enumerate(fractions, start=-1):
        assert 0 <= part <= 1, f"{name}: the fraction at step {step} is {part}"
    assert fractions[0] == 0, f"{name}: the fraction before training is {fractions[0]}, not 0"
    assert due, f"{name}: no update is due in {steps} steps"
    assert schedule.final <= steps, f"{name}: it ends at {schedule.final}; give more steps"
    end = schedule.fraction(schedule.final)
    assert end == 1, f"{name}: the fraction at its final step {schedule.final} is {end}, not 1"
    assert schedule.due(schedule.final), f"{name}: no update is due at step {schedule.final}"
    assert fractions[-1] == 1, f"{name}: the fraction is {fractions[-1]} after its final step"
    if schedule.last is not None:
        assert due[-1] == schedule.last or schedule.last > steps, (
            f"{name}: the last update is at step {due[-1]}, not at {schedule.last}"
        )
        end = schedule.fraction(schedule.last)
        assert end == 1, f"{name}: the fraction at its last update is {end}, not 1"
    if schedule.monotone:
        falls = [k - 1 for k in range(1, len(fractions)) if fractions[k] < fractions[k - 1]]
        assert not falls, f"{name}: the fraction falls at step {falls[0]}, and it is monotone"
