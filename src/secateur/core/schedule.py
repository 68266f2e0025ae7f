"""WHEN: how much of the final sparsity is in force after so many steps of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from secateur.core.errors import RecipeError


class Schedule:
    """What every schedule answers, as pure functions of how many steps have been taken.

    monotone: whether the fraction never falls. A schedule is 0 before its first update and 1 at its
    last one; `sc.testing.check_schedule` proves it of yours.
    """

    monotone: ClassVar[bool] = True

    def fraction(self, step: int) -> float:
        """The part of the final sparsity that holds after `step` steps, from 0 to 1."""
        raise NotImplementedError

    def due(self, step: int) -> bool:
        """Whether masks are chosen anew after `step` steps."""
        raise NotImplementedError

    @property
    def last(self) -> int | None:
        """The step of the last update; None: updates go on for as long as training does."""
        raise NotImplementedError

    @property
    def final(self) -> int:
        """The step from which the whole sparsity holds."""
        raise NotImplementedError


@dataclass(frozen=True)
class OneShot(Schedule):
    """Everything at once, after `at` steps.

    Example:
        >>> OneShot(at=5).fraction(4), OneShot(at=5).fraction(5)
        (0.0, 1.0)

    Raises:
        RecipeError: `at` is not a number of steps, as for all schedules below.
    """

    at: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _steps(self, at=self.at)

    def fraction(self, step: int) -> float:
        """0 before, 1 from then on."""
        return float(step >= self.at)

    def due(self, step: int) -> bool:
        """Once."""
        return step == self.at

    @property
    def last(self) -> int | None:
        """The only update."""
        return self.at

    @property
    def final(self) -> int:
        """The same."""
        return self.at


@dataclass(frozen=True)
class Steps(Schedule):
    """Several cuts: a number of equal ones, or rising fractions of which the last is 1.

    The first is after `start` steps, the others follow `every` so many. `sc.prune` takes only the
    fractions: it repairs, or trains, between the cuts.

    Paper: Han et al., Learning both Weights and Connections, NeurIPS 2015.

    Example:
        >>> Steps(4).fractions(), Steps([0.5, 1.0], start=10, every=10).fraction(15)
        ([0.25, 0.5, 0.75, 1.0], 0.5)
    """

    parts: int | Sequence[float] = 5
    start: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense; a list becomes a tuple."""
        _steps(self, start=self.start)
        _steps(self, least=1, every=self.every)
        if isinstance(self.parts, int):
            _steps(self, least=1, parts=self.parts)
            return
        parts = tuple(float(part) for part in self.parts)
        rising = all(a < b for a, b in zip((0.0, *parts), parts, strict=False))
        if not parts or not rising or parts[-1] != 1:
            raise RecipeError(
                f"Steps({list(parts)}): expected rising fractions that end at 1",
                hint="for example Steps([0.5, 0.8, 1.0])",
            )
        object.__setattr__(self, "parts", parts)

    def fractions(self) -> list[float]:
        """The fraction after each cut."""
        if isinstance(self.parts, int):
            return [(k + 1) / self.parts for k in range(self.parts)]
        return list(self.parts)

    def fraction(self, step: int) -> float:
        """That of the last cut."""
        if step < self.start:
            return 0.0
        parts = self.fractions()
        return parts[min((step - self.start) // self.every, len(parts) - 1)]

    def due(self, step: int) -> bool:
        """At every cut."""
        return self.start <= step <= self.final and (step - self.start) % self.every == 0

    @property
    def last(self) -> int | None:
        """The last cut."""
        return self.final

    @property
    def final(self) -> int:
        """The last cut."""
        return self.start + (len(self.fractions()) - 1) * self.every


@dataclass(frozen=True)
class Linear(Schedule):
    """Rises evenly from 0 after `start` steps to all after `end`, with an update `every` so many.

    until: go on choosing masks until this step, at the whole sparsity (for `grow=`).

    Example:
        >>> Linear(start=100, end=200, every=10).fraction(150)
        0.5
    """

    start: int = 0
    end: int = 1000
    every: int = 100
    until: int | None = None

    power: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _steps(self, start=self.start, end=self.end)
        _steps(self, least=1, every=self.every)
        name = type(self).__name__
        if self.end <= self.start:
            raise RecipeError(
                f"{name}(start={self.start}, end={self.end}) ends before it starts",
                hint="end= is the step at which the whole sparsity is reached",
            )
        if self.every > self.end - self.start:
            raise RecipeError(
                f"{name}: there is no update between step {self.start} and {self.end} with "
                f"every={self.every}",
                hint=f"every= is at most {self.end - self.start}",
            )
        if self.until is not None:
            _steps(self, least=self.end, until=self.until)

    def fraction(self, step: int) -> float:
        """`1 - (1 - t)^power`, where t goes from 0 at the start to 1 at the end."""
        t = min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)
        return 1 - (1 - t) ** self.power

    def due(self, step: int) -> bool:
        """Every so many steps after the start, at the end, and until the very last update."""
        if step == self.end:
            return True
        over = self.end if self.until is None else self.until
        return self.start < step <= over and (step - self.start) % self.every == 0

    @property
    def last(self) -> int | None:
        """The last update."""
        if self.until is None:
            return self.end
        return max(self.end, self.until - (self.until - self.start) % self.every)

    @property
    def final(self) -> int:
        """The end of the rise."""
        return self.end


@dataclass(frozen=True)
class Cubic(Linear):
    """Rises fast at first and slowly at the end: the usual one for gradual pruning.

    Paper: Zhu and Gupta, To Prune or Not to Prune, 2017.

    Example:
        >>> Cubic(start=0, end=100, every=10).fraction(50)
        0.875
    """

    power: ClassVar[int] = 3


@dataclass(frozen=True)
class Constant(Schedule):
    """The whole sparsity from the first step on, with masks that change `every` so many steps.

    end: the last step at which they may change; None: always. For `grow=` (sparse training).

    Example:
        >>> schedule = Constant(every=100, end=1000)
        >>> schedule.fraction(0), schedule.due(100), schedule.due(1100)
        (1.0, True, False)
    """

    every: int = 100
    end: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _steps(self, least=1, every=self.every)
        if self.end is not None:
            _steps(self, end=self.end)

    def fraction(self, step: int) -> float:
        """Everything, once training has begun."""
        return float(step >= 0)

    def due(self, step: int) -> bool:
        """At the beginning, and every so many steps."""
        over = step if self.end is None else self.end
        return 0 <= step <= over and step % self.every == 0

    @property
    def last(self) -> int | None:
        """The last change."""
        return None if self.end is None else self.end - self.end % self.every

    @property
    def final(self) -> int:
        """The beginning."""
        return 0


@dataclass(frozen=True)
class Phases(Schedule):
    """Sparse and dense phases in turns, the last of them sparse until training ends.

    The first `warmup` steps are dense. Then each sparse phase takes `sparse` steps and each dense
    one `dense`; the sparse phase that begins at or after `end` is the last.

    Paper: Peste et al., AC/DC: Alternating Compressed/DeCompressed Training, NeurIPS 2021.

    Example:
        >>> schedule = Phases(warmup=10, sparse=20, dense=20, end=60)
        >>> [schedule.fraction(step) for step in (0, 10, 30, 50, 70, 90)]
        [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
        >>> schedule.final
        90
    """

    warmup: int = 100
    sparse: int = 100
    dense: int = 100
    end: int = 1000

    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _steps(self, warmup=self.warmup, end=self.end)
        _steps(self, least=1, sparse=self.sparse, dense=self.dense)

    def fraction(self, step: int) -> float:
        """1 in sparse phases, 0 in dense ones."""
        if step < self.warmup:
            return 0.0
        within = (step - self.warmup) % (self.sparse + self.dense)
        return float(step >= self.final or within < self.sparse)

    def due(self, step: int) -> bool:
        """Where a phase begins."""
        if step < self.warmup or step > self.final:
            return False
        return (step - self.warmup) % (self.sparse + self.dense) in (0, self.sparse)

    @property
    def last(self) -> int | None:
        """Where the last sparse phase begins."""
        return self.final

    @property
    def final(self) -> int:
        """The same."""
        period = self.sparse + self.dense
        return self.warmup + -(-max(0, self.end - self.warmup) // period) * period


@dataclass(frozen=True)
class Adaptive(Schedule):
    """Raises the sparsity only while a metric stays inside a tolerance, and backs off otherwise.

    metric: `model -> number`, measured in eval mode at every update (on all processes, averaged).
    tolerance: how far it may fall below the dense model's, which is measured after `start` steps.
    higher: whether more is better. by: the first rise, as a fraction of the final sparsity. When
    the metric is outside, the last rise is taken back (the weights too) and rises are halved; below
    `least` the sparsity stays where it is, so the target is a ceiling that need not be reached.

    Example:
        >>> Adaptive(lambda model: 0.9, tolerance=0.01, every=100).due(200)
        True
    """

    metric: Callable[[Any], float]
    tolerance: float
    start: int = 0
    every: int = 100
    by: float = 0.25
    least: float = 0.02
    higher: bool = True
    end: int | None = None

    monotone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        _steps(self, start=self.start)
        _steps(self, least=1, every=self.every)
        if self.end is not None:
            _steps(self, least=self.start + self.every, end=self.end)
        if not callable(self.metric):
            raise RecipeError(
                f"Adaptive(metric={self.metric!r}): expected a function model -> number"
            )
        if not self.tolerance >= 0:
            raise RecipeError(f"Adaptive(tolerance={self.tolerance!r}): expected at least 0")
        if not 0 < self.least <= self.by <= 1:
            raise RecipeError(
                f"Adaptive(by={self.by!r}, least={self.least!r}): expected 0 < least <= by <= 1"
            )

    def fraction(self, step: int) -> float:
        """0 before the start; from then on the most that may hold: the session decides."""
        return float(step >= self.start)

    def due(self, step: int) -> bool:
        """Every so many steps from the start on."""
        over = step if self.end is None else self.end
        return self.start <= step <= over and (step - self.start) % self.every == 0

    @property
    def last(self) -> int | None:
        """The last update."""
        return None if self.end is None else self.end - (self.end - self.start) % self.every

    @property
    def final(self) -> int:
        """The start: the target is a ceiling."""
        return self.start


def _steps(schedule: Schedule, least: int = 0, **given: object) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RecipeError(
                f"{type(schedule).__name__}({name}={value!r}): expected an integer of at least "
                f"{least}",
                hint="schedules count steps of the optimizer",
            )
