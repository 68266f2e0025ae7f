"""Residual blocks that single samples pass by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from secateur.adapt.timed import timed_line
from secateur.apply.modules import Skip
from secateur.core.page import Line, Page, Table, plain, plural

Decide = Callable[[Tensor], Tensor]
"""From what comes into the first of the blocks: how many each sample passes by, `[n]`."""


class Pass:
    """One run: how many blocks each sample passes by, once that is decided."""

    def __init__(self, decide: Decide) -> None:
        self.decide = decide
        self.counts: Tensor | None = None
        self.alone: int | None = None  # how many a single sample passes by

    def by(self, number: int, x: Tensor) -> Tensor | bool:
        """Which samples pass by the block that is passed by as the `number`-th, `[n]`.

        Of a single sample, whether it does: without more small tensors.
        """
        if self.counts is None:
            self.counts = self.decide(x)
            self.alone = int(self.counts) if len(self.counts) == 1 else None
        return self.counts >= number if self.alone is None else self.alone >= number


current: ContextVar[Pass | None] = ContextVar("layers", default=None)


class Skippable(nn.Module):
    """A residual block, which adds nothing to samples that pass it by.

    number: its place in the order in which blocks are given up.
    """

    def __init__(self, block: nn.Module, number: int, as_tuple: bool) -> None:
        super().__init__()
        self.block, self.number, self.skip = block, number, Skip(as_tuple=as_tuple)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output, or its input."""
        run = current.get()
        if run is None:
            return self.block(*args, **kwargs)
        same = self.skip(*args, **kwargs)
        x = same[0] if isinstance(same, tuple) else same
        by = run.by(self.number, x)
        if isinstance(by, bool):
            return same if by else self.block(*args, **kwargs)
        if bool(by.all()):
            return same
        out = self.block(*args, **kwargs)
        if not bool(by.any()):
            return out
        value = out[0] if isinstance(out, tuple) else out
        mixed = torch.where(by.reshape(-1, *[1] * (x.dim() - 1)), x, value)
        return type(out)((mixed, *out[1:])) if isinstance(out, tuple) else mixed


class Layers(nn.Module):
    """A network whose samples pass by blocks that they do not need, made by `sc.adapt.skip`.

    What comes into the first of these blocks decides, by a linear predictor of how much the outcome
    would still be the whole network's. A single sample computes no block that it passes by; of a
    batch a block is computed unless all pass it by. In training mode the whole network runs.

    names: the blocks, in the order in which they are given up. threshold: what the predictor must
    exceed. agreed, tested: samples on which the promise was tested, and on how many the class was
    the same. passed: how many blocks were passed by in all of them. times: milliseconds of a single
    sample in the whole network and here, the means of `timed` test samples; None where nothing was
    timed.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], head: nn.Module, threshold: float
    ) -> None:
        super().__init__()
        self.model, self.names, self.head = model, tuple(names), head
        self.threshold = threshold
        self.guarantee, self.delta = 1.0, 0.0
        self.tested = self.agreed = self.passed = 0
        self.times: tuple[float, float] | None = None
        self.timed = 0
        self.notes: tuple[str, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs."""
        if self.training or self.threshold == float("inf"):
            return self.model(*args, **kwargs)
        return self.run(self.decide, *args, **kwargs)

    def decide(self, x: Tensor) -> Tensor:
        """How many blocks each sample passes by: as many as the predictor is sure of."""
        return counts(self.head(x), self.threshold)

    def run(self, decide: Decide, *args: Any, **kwargs: Any) -> Any:
        """The outputs where something else decides."""
        token = current.set(Pass(decide))
        try:
            return self.model(*args, **kwargs)
        finally:
            current.reset(token)

    @property
    def agreement(self) -> float:
        """The share of test samples with the whole network's class."""
        return self.agreed / max(self.tested, 1)

    @property
    def page(self) -> Page:
        """What is printed."""
        mean = self.passed / max(self.tested, 1)
        rows = tuple((str(k), name) for k, name in enumerate(self.names, 1))
        return (
            Line(f"Layers of {type(self.model).__name__}", title=True),
            Table(("given up", "block"), rows, frozenset({1})),
            Line(
                f"on {plural(self.tested, 'test sample')}: {mean:.2f} of these blocks passed by, "
                f"{self.agreement:.2%} with the class of the whole network"
            ),
            Line(
                f"promise: at least {self.guarantee:g} agree, unless the test samples were a "
                f"chance of {self.delta:g}"
            ),
            *timed_line(self.times, self.timed),
            *(Line(f"note: {note}", "warn") for note in self.notes),
        )

    def __str__(self) -> str:
        """The page as plain text."""
        return plain(self.page)


def counts(margins: Tensor, threshold: float) -> Tensor:
    """The largest number of blocks whose predicted margin is above the threshold, `[n]`; else 0.

    margins: `[n, blocks]`, with the first, the first two, ... of the blocks passed by.

    Example:
        >>> counts(torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]), 1.5)
        tensor([3, 0])
    """
    places = torch.arange(1, margins.shape[1] + 1, device=margins.device)
    return ((margins > threshold) * places).amax(1)
