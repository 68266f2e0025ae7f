"""What a program does in every run, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from secateur.engine.graph import Node, refs, substitute
from secateur.engine.kernels import tasks
from secateur.engine.native import Slot
from secateur.runtime.machine import Round, Rounds
from secateur.runtime.planes import Kernel

Step = Callable[[list[Any]], None]


class Rounded(Protocol):
    """A step that is native functions over tables, on so many threads."""

    def rounds(self, threads: int) -> list[Round]:
        """The functions, in order, each with its tasks."""
        ...


def in_turn(steps: Sequence[Rounded], threads: int) -> list[Round]:
    """One step after the other, each on all threads."""
    return [found for step in steps for found in step.rounds(threads)]


@dataclass(frozen=True)
class Chosen:
    """A layer's kernel, and the non-zeros of each output plane."""

    kernel: Kernel
    weights: np.ndarray


class PlanesStep:
    """One kernel over all images, as a table of tasks for each number of threads."""

    RANGE = 6
    """The column of `calls` where a range of planes begins; it ends in the next."""

    def __init__(
        self,
        chosen: Chosen,
        planes: int,
        positions: int,
        images: int,
        starts: tuple[int, int, int],
        steps: tuple[int, int, int],
        held: Any,
    ) -> None:
        self.chosen, self._held = chosen, held
        self.planes, self.positions, self.images = planes, positions, images
        self._starts, self._steps = starts, steps
        self._tasks: dict[int, Rounds] = {}

    def __call__(self, run: list[Any]) -> None:
        """Run the kernel on the threads that torch has now."""
        threads = torch.get_num_threads()
        if threads not in self._tasks:
            self._tasks[threads] = Rounds(self.rounds(threads))
        self._tasks[threads]()

    @property
    def address(self) -> int:
        """Of the kernel."""
        return self.chosen.kernel.address

    def use(self, chosen: Chosen) -> None:
        """Run another kernel of the same layer from now on."""
        self.chosen = chosen
        self._tasks.clear()

    def rounds(self, threads: int) -> list[Round]:
        """The kernel, with addresses and ranges: one task a row."""
        planes, positions, images = self.planes, self.positions, self.images
        each = max(1, threads // images)
        ranges = tasks(self.chosen.kernel, planes, positions, each, self.chosen.weights)
        rows = []
        for i in range(images):
            rows += [[*self.places(i), *limits] for limits in ranges]
        return [(self.address, np.array(rows, np.int64).reshape(-1, 7))]

    def calls(self, image: int) -> np.ndarray:
        """The function and its arguments for one image, as one row."""
        kernel, weights = self.chosen.kernel, self.chosen.weights
        (whole,) = tasks(kernel, self.planes, self.positions, 1, weights)
        return np.array([[self.address, *self.places(image), *whole]], np.int64)

    def places(self, image: int) -> list[int]:
        """Addresses of input, output and residual."""
        pairs = zip(self._starts, self._steps, strict=True)
        return [start + 4 * image * step for start, step in pairs]


def arguments(node: Node, values: Mapping[str, Any]) -> Callable[[list[Any]], tuple[Any, Any]]:
    """What gives a node's arguments in a run."""
    args, kwargs = substitute((tuple(node.args), dict(node.kwargs)), lambda n: values[n])
    if not any(isinstance(values[n], Slot) for n in node.refs):
        return lambda run: (args, kwargs)
    flat = all(not isinstance(a, (list, tuple)) for a in args) and not list(refs(node.kwargs))
    if flat:
        places = [(i, a.place) for i, a in enumerate(args) if isinstance(a, Slot)]

        def few(run: list[Any]) -> tuple[Any, Any]:
            now = list(args)
            for i, place in places:
                now[i] = run[place]
            return now, kwargs

        return few
    known = {n: values[n] for n in node.refs}

    def all_of(run: list[Any]) -> tuple[Any, Any]:
        def at(name: str) -> Any:
            value = known[name]
            return run[value.place] if isinstance(value, Slot) else value

        return substitute((tuple(node.args), dict(node.kwargs)), at)

    return all_of


def into(run: Callable[..., Any], given: Callable[[list[Any]], Any], target: Tensor) -> Step:
    """Run something of torch, and copy what it gives."""

    def step(now: list[Any]) -> None:
        args, kwargs = given(now)
        target.copy_(run(*args, **kwargs))

    return step


def anew(run: Callable[..., Any], given: Callable[[list[Any]], Any], place: int) -> Step:
    """Run something of torch, and keep what it gives until the run ends."""

    def step(now: list[Any]) -> None:
        args, kwargs = given(now)
        now[place] = run(*args, **kwargs)

    return step


def copied(source: Any, target: Tensor) -> Step:
    """Copy a value."""
    if isinstance(source, Slot):
        return lambda run: _nothing(target.copy_(run[source.place]))
    return lambda run: _nothing(target.copy_(source))


def split(source: Any, pairs: list[tuple[Any, Tensor]]) -> Step:
    """Copy parts of a value: index and target of each."""

    def step(run: list[Any]) -> None:
        value = run[source.place] if isinstance(source, Slot) else source
        for index, target in pairs:
            target.copy_(value[index])

    return step


def _nothing(value: object) -> None:
    return None
