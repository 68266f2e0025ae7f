"""Controller: turns a dial from the latencies that requests really had."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, isfinite
from threading import Lock
from time import perf_counter
from typing import Any

from secateur.adapt.dial import Dial
from secateur.adapt.promise import binomial_tail
from secateur.core.errors import RecipeError
from secateur.core.page import Line, Page, Table, plain, plural

_WINDOW = 200  # latencies that are looked at, all of the level in force
_RECENT = (8, 32)  # the last ones are looked at by themselves too: a burst shows there first
_LEAST = 8  # latencies before anything is decided
_CHANCE = 0.005  # of turning down although the target holds, at one look
_HEADROOM = 0.85  # of the target, which the next level must be predicted to stay below
_PATIENCE = 64  # latencies before turning up; doubled whenever that was taken back
_MOST_PATIENCE = 64 * _PATIENCE
_EVENTS = 1000


@dataclass(frozen=True)
class Event:
    """A decision. number: after how many latencies; before, after: levels; why: in words."""

    number: int
    before: float
    after: float
    why: str


class Controller:
    """Keeps a percentile of the latencies below a target by turning a dial, and says why.

    Call it instead of the dial; or tell it latencies that include the time in a queue, with
    `observe`, and call the dial. A single slow request decides nothing: the dial is turned down
    when more requests are late than chance allows at the target, at once to the largest level that
    is predicted to hold it. It is turned up one level at a time, where the percentile predicted
    there is well below the target; if that is soon taken back, the next try waits twice as long.
    Predictions scale what was observed by the levels' measured times, else by their shares.

    Latencies that are not numbers or below zero (a clock that was set back) are counted and
    ignored. No lock is held while the network runs, so a request that hangs stops nothing.

    Args:
        dial: Its level is set for all threads.
        target_ms: The most that the percentile should be.
        percentile: Above 0 and below 100.
        floor: The smallest level to go to, for the sake of quality; by default the smallest one.
        clock: Gives seconds; only differences matter.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
        >>> server = sc.adapt.Controller(sc.dial(net, torch.randn(1, 4)), target_ms=20)
        >>> for _ in range(8):
        ...     server.observe(36.0)
        >>> server.dial.level, server.events[-1].why
        (0.5, '8 of 8 requests took more than 20 ms')

    Raises:
        RecipeError: An argument makes no sense.
    """

    def __init__(
        self,
        dial: Dial,
        target_ms: float,
        percentile: float = 95,
        *,
        floor: float | None = None,
        clock: Any = perf_counter,
    ) -> None:
        if not 0 < target_ms < float("inf") or not 0 < percentile < 100:
            raise RecipeError(
                f"target_ms={target_ms!r}, percentile={percentile!r}",
                hint="for example target_ms=20, percentile=95",
            )
        levels = dial.levels
        if floor is not None and floor not in levels:
            raise RecipeError(
                f"floor={floor!r} is no level of the dial",
                hint=f"the levels are {', '.join(f'{level:g}' for level in levels)}",
            )
        self.dial, self.target, self.percentile, self.clock = dial, target_ms, percentile, clock
        self.levels = tuple(level for level in levels if floor is None or level >= floor)
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self.observed = self.ignored = self.late = 0
        self._window: deque[float] = deque(maxlen=_WINDOW)
        self._patience, self._since, self._risen, self._missing = _PATIENCE, 0, False, False
        self._lock = Lock()
        if dial.level not in self.levels:
            dial.set(self.levels[-1])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the dial, and learn from how long that took."""
        level, start = self.dial.level, self.clock()
        out = self.dial(*args, **kwargs)
        self.observe(1000 * (self.clock() - start), level)
        return out

    def observe(self, ms: float, level: float | None = None) -> None:
        """Learn from one request's latency; level: at which it ran, by default the one in force.

        Requests that ran at another level than the one in force are counted and decide nothing.
        """
        with self._lock:
            if not isfinite(ms) or ms < 0:
                self.ignored += 1
                return
            self.observed += 1
            self.late += ms > self.target
            if level is not None and level != self._level:
                return
            self._window.append(ms)
            self._since += 1
            self._decide()

    @property
    def _level(self) -> float:
        return self.dial._level

    def _decide(self) -> None:
        if len(self._window) < _LEAST:
            return
        place = self.levels.index(self._level)
        if (burst := self._burst()) is not None:
            late = sum(ms > self.target for ms in burst)
            why = f"{late} of {len(burst)} requests took more than {self.target:g} ms"
            if place + 1 < len(self.levels):
                self._down(place, burst, why)
            elif not self._missing:
                self._missing = True
                self._note(self._level, f"{why}, and this is the smallest level allowed")
        elif self._since >= self._patience and place > 0:
            self._up(place)
        elif self._since >= 2 * self._patience and self._risen:
            self._patience, self._risen = max(_PATIENCE, self._patience // 2), False

    def _burst(self) -> list[float] | None:
        """The latest latencies, if more of them are late than chance allows at the target."""
        latest = list(self._window)
        sizes = [*(n for n in _RECENT if n < len(latest)), len(latest)]
        for n in sizes:
            late = sum(ms > self.target for ms in latest[-n:])
            # the chance of at least so many, where as many as the target allows are late
            chance = 1 - binomial_tail(late - 1, n, 1 - self.percentile / 100) if late else 1.0
            if chance < _CHANCE / len(sizes):
                return latest[-n:]
        return None

    def _down(self, place: int, seen: list[float], why: str) -> None:
        """To the largest level that is predicted to hold the target, at least one down."""
        below = self.levels[place + 1 :]
        fits = [level for level in below if self._predicted(level, seen) <= self.target]
        if self._risen and self._since < 2 * self._patience:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._risen = False
        self._turn(fits[0] if fits else self.levels[-1], why)

    def _up(self, place: int) -> None:
        level = self.levels[place - 1]
        predicted = self._predicted(level, self._window)
        if predicted <= _HEADROOM * self.target:
            self._risen = True
            name = f"percentile {self.percentile:g}"
            self._turn(level, f"{name} is predicted to be {predicted:.3g} ms")

    def _turn(self, level: float, why: str) -> None:
        before = self._level
        self.dial.set(level)
        self._window.clear()
        self._since, self._missing = 0, False
        self._note(before, why)

    def _note(self, before: float, why: str) -> None:
        self.events.append(Event(self.observed, before, self._level, why))

    def _predicted(self, level: float, latencies: Iterable[float]) -> float:
        """The percentile at a level, by what was seen at the level in force."""
        ranked = sorted(latencies)
        seen = ranked[ceil(self.percentile / 100 * len(ranked)) - 1]
        table, here = self.dial.table, self._level
        if level in table and here in table:
            return seen * table[level].median_ms / max(table[here].median_ms, 1e-9)
        return seen * level / here

    @property
    def page(self) -> Page:
        """What is printed: the decisions, newest last."""
        title = f"Controller: percentile {self.percentile:g} below {self.target:g} ms"
        said = f"{plural(self.observed, 'request')}, {self.late / max(self.observed, 1):.1%} late"
        if self.ignored:
            said += f"; ignored {self.ignored:,} latencies that made no sense"
        rows = tuple(
            (str(e.number), f"{e.before:g}", f"{e.after:g}", e.why) for e in list(self.events)[-20:]
        )
        table = Table(("request", "from", "to", "why"), rows, frozenset({3}))
        return (
            Line(title, title=True),
            Line(f"level {self._level:g}; {said}"),
            *((table,) if rows else ()),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)
