"""Layers that follow each other, worked through in short runs of positions, depth first.

Where one layer is done before the next one begins, activations are no longer in the cache when they
are read. Layers on planes of one form can take turns instead: as soon as a layer has made the
positions that the next one reads, that one makes its own. Every position is computed once, as
before. What follows each other is one native call.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from secateur.engine.layer import Layer
from secateur.engine.layout import Form
from secateur.engine.native import NativeStep
from secateur.engine.pair import PairStep
from secateur.engine.steps import PlanesStep, Step, in_turn
from secateur.runtime.machine import Round, Rounds
from secateur.runtime.machine.sequence import sequence, tasks


@dataclass
class Link:
    """One layer in a chain.

    step, end: positions are made in multiples of `step`, up to `end`, which is one. reads: buffers,
    and the lowest and highest offset that position 0 reads there. writes: a buffer. form: links of
    one chain have the same.
    """

    step: int
    end: int
    reads: Sequence[tuple[Hashable, int, int]]
    writes: Hashable
    form: Hashable = None
    waits: list[tuple[int, int]] = field(default_factory=list)


def reach(layer: Layer, form: Form) -> tuple[int, int]:
    """The lowest and highest offset at which position 0 of a layer reads its planes.

    Example:
        >>> from secateur.engine.layer import pack
        >>> conv = Layer("c", pack(torch.ones(1, 1, 3, 3)), None, dims=2, padding=(1, 1))
        >>> reach(conv, Form((8, 8), 9, 16, 99))
        (-10, 10)
    """
    sizes = zip(layer.kernel, layer.padding, layer.dilation, (form.row, 1), strict=True)
    pairs = [(-p * unit, ((k - 1) * d - p) * unit) for k, p, d, unit in sizes]
    return min(0, sum(low for low, _ in pairs)), max(0, sum(high for _, high in pairs))


def connect(links: Sequence[Link]) -> None:
    """Find out which links wait for which: (link, how many positions that one must be ahead)."""
    for i, link in enumerate(links):
        link.waits = []
        for j in range(i):
            other = links[j]
            ahead = [high for buffer, _, high in link.reads if buffer == other.writes]
            ahead += [-low for buffer, low, _ in other.reads if buffer == link.writes]
            ahead += [0] * (other.writes == link.writes)
            if ahead:
                link.waits.append((j, max(0, *ahead)))


def schedule(links: Sequence[Link], block: int) -> list[tuple[int, int, int]]:
    """(link, begin, end) in an order in which everything is there when it is read.

    block: positions that the first link goes ahead in each turn.

    Example:
        >>> first = Link(8, 32, [("x", 0, 0)], "y")
        >>> second = Link(8, 32, [("y", -9, 9)], "z")
        >>> connect([first, second])
        >>> schedule([first, second], 24)
        [(0, 0, 24), (1, 0, 8), (0, 24, 32), (1, 8, 32)]
    """
    done = [0] * len(links)
    found, front = [], 0
    while any(d < link.end for d, link in zip(done, links, strict=True)):
        front += block
        for i, link in enumerate(links):
            most = min(front, link.end)
            for j, ahead in link.waits:
                if done[j] < links[j].end:
                    most = min(most, done[j] - ahead)
            stop = link.end if most >= link.end else most // link.step * link.step
            if stop > done[i]:
                found.append((i, done[i], stop))
                done[i] = stop
    return found


class ChainStep:
    """Layers that take turns, on one thread for an image; block: as for `schedule`."""

    def __init__(self, steps: Sequence[PlanesStep], links: Sequence[Link], block: int) -> None:
        connect(links)
        self.steps, self.images = steps, steps[0].images
        self._order = schedule(links, block)

    def calls(self, image: int) -> np.ndarray:
        """Functions and arguments for one image."""
        rows = [step.calls(image)[0] for step in self.steps]
        found = np.array([rows[i] for i, _, _ in self._order], np.int64)
        found[:, 4:6] = [limits for _, *limits in self._order]
        return found

    def rounds(self, threads: int) -> list[Round]:
        """One layer after the other, each on all threads."""
        return in_turn(self.steps, threads)

    def __call__(self, run: list[Any]) -> None:
        """Run one layer after the other, each on all threads."""
        for step in self.steps:
            step(run)


Span = tuple[int, int, int]
Part = PlanesStep | ChainStep | PairStep | NativeStep


class CallsStep:
    """Steps as one native call: an image for every thread, or all threads for every step."""

    def __init__(self, steps: Sequence[Part]) -> None:
        self.steps, self._images = steps, steps[0].images
        self._rounds: dict[int, Rounds] = {}
        self._tables: list[np.ndarray] = []

    def __call__(self, run: list[Any]) -> None:
        """Run all steps on the threads that torch has now."""
        threads = torch.get_num_threads()
        if threads not in self._rounds:
            self._rounds[threads] = Rounds(self.rounds(threads))
        self._rounds[threads]()

    def rounds(self, threads: int) -> list[Round]:
        """What runs on so many threads."""
        code = sequence()
        if code is None or self._images < threads:
            return in_turn(self.steps, threads)
        self._tables = self._tables or [
            np.concatenate([step.calls(image) for step in self.steps])
            for image in range(self._images)
        ]
        return [(code.address, tasks(self._tables))]


def apart(steps: Sequence[tuple[str, Step]]) -> list[Step]:
    """All steps of a program, each layer's or pair's alone, in order."""
    found: list[Step] = []
    for name, step in steps:
        inner = step.steps if isinstance(step, CallsStep | ChainStep) else ()
        found += apart([(name, part) for part in inner]) if inner else [step]
    return found


def joined(steps: Sequence[tuple[str, Step]]) -> list[tuple[str, Step]]:
    """The steps of a program, with calls that follow each other as one."""
    found: list[tuple[str, Step]] = []
    open: list[tuple[str, Part]] = []
    there: list[Span] = []

    def close() -> None:
        if open:
            name = " to ".join(dict.fromkeys((open[0][0], open[-1][0])))
            found.append((name, CallsStep([step for _, step in open])))
        open.clear()
        there.clear()

    for name, step in steps:
        if not isinstance(step, Part) or (isinstance(step, NativeStep) and not step.fixed):
            close()
            found.append((name, step))
            continue
        spans = spans_of(step)
        if open and (open[0][1].images != step.images or _mixed(there, spans)):
            close()
        open.append((name, step))
        there.extend(spans)
    close()
    return found


def spans_of(step: Part) -> list[Span]:
    """Where a step reads and writes: begin, end, and bytes from one image to the next."""
    if isinstance(step, ChainStep | PairStep):
        return [span for part in step.steps for span in spans_of(part)]
    if step.images == 1:
        return []  # there is no other image that could be in its way
    pairs = zip(step.places(0), step.places(1), strict=True)
    return [(a, a + step.images * (b - a), b - a) for a, b in pairs if a]


def _mixed(there: Sequence[Span], more: Sequence[Span]) -> bool:
    """Whether what is one image's for some steps is another image's for others.

    Images go through all joined steps at once, or one after the other: memory that is used again
    in between must be the same image's.
    """
    return any(
        a < end and begin < b and (step != other or abs(a - begin) >= step)
        for a, b, step in there
        for begin, end, other in more
    )


def chained(
    steps: Sequence[tuple[str, Step]], links: dict[str, Link], block: int
) -> list[tuple[str, Step]]:
    """The steps of a program, with those that follow each other in chains; links: by step."""
    found: list[tuple[str, Step]] = []
    open: list[tuple[str, PlanesStep, Link]] = []

    def close() -> None:
        if len(open) > 1:
            name = f"{open[0][0]} to {open[-1][0]}"
            found.append((name, ChainStep([s for _, s, _ in open], [n for *_, n in open], block)))
        else:
            found.extend((name, step) for name, step, _ in open)
        open.clear()

    for name, step in steps:
        link = links.get(name) if isinstance(step, PlanesStep) else None
        if link is None or not isinstance(step, PlanesStep):
            close()
            found.append((name, step))
            continue
        spans = [span for _, other, _ in open for span in spans_of(other)]
        if open and (open[0][2].form != link.form or _mixed(spans, spans_of(step))):
            close()
        open.append((name, step, link))
    close()
    return found
