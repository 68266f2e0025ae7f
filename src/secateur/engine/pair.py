"""A layer and the depthwise convolution or the maximum behind it, a few channels at a time.

What is behind reads one plane for each of its own. A few planes of the layer before it are made,
read while they are in the cache, and written over by the next ones: the widest activations of a
network, which would not fit any cache, are never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from secateur.engine.native import NativeStep
from secateur.engine.steps import PlanesStep, Step, in_turn
from secateur.runtime.machine import Round, Rounds, pieces
from secateur.runtime.machine.sequence import sequence, tasks

NEAR = 1 << 16
"""Bytes of planes that are made before they are read."""


class PairStep:
    """Two steps whose planes in between are used in turns; pitch: floats between these planes."""

    def __init__(self, first: PlanesStep, second: PlanesStep | NativeStep, pitch: int) -> None:
        self.steps = (first, second)
        self.images = first.images
        self._pitch = pitch
        self._rounds: dict[tuple[int, ...], Rounds] = {}
        self._tables: list[np.ndarray] = []

    @property
    def most(self) -> int:
        """How many planes are there at a time."""
        block = self.steps[0].chosen.kernel.block
        return max(1, NEAR // (4 * self._pitch * block)) * block

    def __call__(self, run: list[Any]) -> None:
        """Run both on the threads that torch has now."""
        threads = torch.get_num_threads()
        key = threads, *(step.address for step in self.steps)
        if key not in self._rounds:
            self._rounds[key] = Rounds(self.rounds(threads))
        self._rounds[key]()

    def rounds(self, threads: int) -> list[Round]:
        """Both in turns on so many threads; one after the other where no code may be run."""
        code = sequence()
        if code is None:
            return in_turn(self.steps, threads)
        tables = self.tables(threads)
        self._tables += tables  # kept: their addresses are in what is given
        return [(code.address, tasks(tables))]

    def tables(self, threads: int) -> list[np.ndarray]:
        """Functions and arguments, for every image and range of channels."""
        planes, block = self.steps[0].planes, self.steps[0].chosen.kernel.block
        parts = -(-pieces(threads) // self.images)
        size = -(-planes // (parts * block)) * block
        return [
            self.calls(image, b, min(b + size, planes))
            for image in range(self.images)
            for b in range(0, planes, size)
        ]

    def calls(self, image: int, first: int = 0, last: int | None = None) -> np.ndarray:
        """Functions and arguments for the channels `[first, last)` of one image."""
        last = self.steps[0].planes if last is None else last
        begins = np.arange(first, last, self.most)
        made, read = (np.repeat(step.calls(image), len(begins), 0) for step in self.steps)
        ends = np.minimum(begins + self.most, last)
        for rows, at, step in zip((made, read), (2, 1), self.steps, strict=True):
            rows[:, at] -= 4 * self._pitch * (begins - first)
            rows[:, step.RANGE], rows[:, step.RANGE + 1] = begins, ends
        return np.stack([made, read], 1).reshape(-1, made.shape[1])


def paired(steps: Sequence[tuple[str, Step]], pitches: Mapping[str, int]) -> list[tuple[str, Step]]:
    """The steps of a program, with layers and what reads them plane by plane in pairs.

    pitches: by step behind, if nothing else reads its input: floats between that one's planes.
    """
    found: list[tuple[str, Step]] = []
    for name, step in steps:
        pair = _pair(found[-1][1], step, pitches[name]) if found and name in pitches else None
        if pair is None:
            found.append((name, step))
        else:
            found[-1] = f"{found[-1][0]}, {name}", pair
    return found


def _pair(first: Step, second: Step, pitch: int) -> PairStep | None:
    """Two steps that follow each other as one; None where nothing is gained by it."""
    if not (isinstance(first, PlanesStep) and isinstance(second, PlanesStep | NativeStep)):
        return None
    (source, made, residual), (read, target, *_) = first.places(0), second.places(0)
    if made != read or residual or first.planes != second.planes:
        return None
    if target == source:  # what the next planes are made of would be written over
        return None
    pair = PairStep(first, second, pitch)
    return pair if pair.most < first.planes else None
