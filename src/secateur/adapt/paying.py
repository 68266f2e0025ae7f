"""Which exits are worth their time, measured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur.adapt.exiting import Left, first, visit
from secateur.adapt.heads import confidence_of_one
from secateur.core.batches import Call, untouched
from secateur.measure.clock import compare


@dataclass(frozen=True)
class Price:
    """Milliseconds of a single sample.

    upto: the network up to each exit. heads: what each head takes to answer. whole: the network.
    """

    upto: tuple[float, ...]
    heads: tuple[float, ...]
    whole: float

    def mean(self, chosen: Sequence[int], leaving: Sequence[int], samples: int) -> float:
        """Of samples of which so many leave at each of the chosen exits.

        Example:
            >>> Price((1.0, 2.0), (0.5, 0.5), 4.0).mean([0], [10], 20)
            3.0
        """
        asked, total = 0.0, 0.0
        for number, count in zip(chosen, leaving, strict=True):
            asked += self.heads[number]
            total += count * (self.upto[number] + asked)
        return (total + (samples - sum(leaving)) * (self.whole + asked)) / max(samples, 1)


class _Until:
    """A visitor that keeps what one exit sees, and ends there."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, torch.empty(0)

    def arrive(self, number: int, out: Any) -> None:
        if number == self.number:
            self.seen = first(out)
            raise Left


def price(model: nn.Module, heads: Sequence[nn.Module], call: Call) -> Price:
    """What single samples take, timed in turns on a call of one."""
    until = [_Until(number) for number in range(len(heads))]
    with untouched(model), torch.no_grad():
        for one in until:
            visit(model, call, one)

    def answer(head: nn.Module, one: _Until) -> bool:
        return confidence_of_one(head(one.seen)) >= 0.5

    runs: dict[str, Any] = {"whole": partial(call.run, model)}
    for one, head in zip(until, heads, strict=True):
        runs[f"upto {one.number}"] = partial(visit, model, call, one)
        runs[f"head {one.number}"] = partial(answer, head, one)
    times = compare(runs, repeats=9, min_time=0.01, max_time=0.5)
    upto, asked = (
        tuple(times[f"{kind} {number}"].median_ms for number in range(len(heads)))
        for kind in ("upto", "head")
    )
    return Price(upto, asked, times["whole"].median_ms)


def worth(price: Price, outcomes: Outcomes, samples: int) -> tuple[int, ...]:
    """The exits that together bring the mean time of a sample lowest, in order.

    They are taken one by one, always the one that saves most, until none saves any.
    outcomes: of the numbers of some exits, how many samples leave at each.
    """
    chosen, least = tuple[int, ...](), price.whole
    while True:
        others = [
            tuple(sorted((*chosen, number)))
            for number in range(len(price.heads))
            if number not in chosen
        ]
        tried = [(price.mean(some, outcomes(some), samples), some) for some in others]
        if not tried or min(tried)[0] >= least:
            return chosen
        least, chosen = min(tried)


Outcomes = Callable[[Sequence[int]], Sequence[int]]
