"""The settings of a training: how long, how fast, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from secateur.core.errors import RecipeError
from secateur.core.registry import did_you_mean

RATE = 1e-3
"""The learning rate of the default optimizer, AdamW."""
Event = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, kw_only=True)
class Course:
    """The settings that all kinds of training share; their data is the `data=` of the prune.

    A tenth of the data is held out, or `validation=` is. After every round the loss on that decides
    whether the weights are the best so far; what stays is the best, and if nothing was better than
    before, nothing changes. Batches come in an order that the seed decides.

    Args:
        epochs: How often all data is seen; by default once.
        steps: Or how many steps of the optimizer are taken.
        loss: `(model, batch) -> scalar`; by default that of the prune, else cross-entropy for
            labels that are integers and mean squared error for others.
        optimizer: `parameters -> Optimizer`; by default AdamW.
        lr: The learning rate of the default optimizer.
        schedule: Of the learning rate: "cosine", "linear" (both to zero), "constant", or a function
            `(step, steps) -> factor`.
        warmup: The part of all steps in which it rises from zero.
        clip: The largest norm of the gradients; None lets them be.
        accumulate: Batches whose gradients make one step.
        precision: "bf16" or "fp16" for mixed precision.
        every: Steps in a round; by default an epoch's.
        patience: Stop after so many rounds that were no better.
        validation: Batches that are held out instead of a part of the data.
        checkpoint: A folder; training that was interrupted goes on from its last round there, and
            one that was finished is not run again. It is known by the weights that it starts from
            and by its settings, but not by the data.
        on_event: Called with a plain dict at the start, after every round and at the end.
        seed: By default that of the prune.

    Raises:
        RecipeError: A setting makes no sense.
    """

    epochs: int | None = None
    steps: int | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
    lr: float | None = None
    schedule: Literal["cosine", "linear", "constant"] | Callable[[int, int], float] = "cosine"
    warmup: float = 0.05
    clip: float | None = 1.0
    accumulate: int = 1
    precision: Literal["bf16", "fp16"] | None = None
    every: int | None = None
    patience: int | None = None
    validation: Iterable[Any] | None = field(default=None, repr=False)
    checkpoint: str | Path | None = None
    on_event: Event | None = field(default=None, repr=False)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        name = type(self).__name__
        if self.epochs is not None and self.steps is not None:
            raise RecipeError(f"{name} has epochs= and steps=", hint="give one of them")
        for key in ("epochs", "steps", "accumulate", "every", "patience"):
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is not None and not whole:
                raise RecipeError(f"{name}({key}={value!r}): expected an integer of at least 1")
        for key in ("lr", "clip"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{name}({key}={value!r}): expected a number above 0")
        if not 0 <= self.warmup < 1:
            raise RecipeError(f"{name}(warmup={self.warmup!r}): expected a part, 0 <= warmup < 1")
        if self.optimizer is not None and self.lr is not None:
            raise RecipeError(
                f"{name} has optimizer= and lr=", hint="set the learning rate in the optimizer"
            )
        if self.optimizer is not None and not callable(self.optimizer):
            raise RecipeError(
                f"{name}(optimizer={type(self.optimizer).__name__}): it would train other "
                "parameters than those that are left",
                hint="give a function, such as lambda parameters: SGD(parameters, lr=0.1)",
            )
        if not callable(self.schedule) and self.schedule not in _FACTORS:
            raise RecipeError(
                f"{name}: there is no schedule {self.schedule!r}",
                hint=did_you_mean(str(self.schedule), _FACTORS),
            )
        if self.precision not in (None, "bf16", "fp16"):
            raise RecipeError(f"{name}(precision={self.precision!r}): expected 'bf16' or 'fp16'")

    def length(self, per_epoch: int) -> int:
        """Steps in all, where an epoch has so many.

        Example:
            >>> Course(epochs=3).length(10), Course(steps=7).length(10)
            (30, 7)
        """
        return self.steps if self.steps is not None else (self.epochs or 1) * per_epoch

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by.

        Example:
            >>> [round(Course(warmup=0.2).factor(step, 10), 2) for step in (0, 1, 2, 6, 9)]
            [0.33, 0.67, 1.0, 0.5, 0.04]
        """
        fall = self.schedule if callable(self.schedule) else _FACTORS[self.schedule]
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / (rising + 1) * fall(0, steps)
        return fall(step - rising, max(steps - rising, 1))

    def make_optimizer(self, parameters: list[nn.Parameter]) -> Optimizer:
        """The user's, or AdamW."""
        if self.optimizer is not None:
            return self.optimizer(parameters)
        return AdamW(parameters, lr=RATE if self.lr is None else self.lr)

    @property
    def key(self) -> dict[str, Any]:
        """What decides the course of the training, so that a checkpoint of another is not used."""
        without = ("validation", "on_event", "checkpoint")
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in without}
        return {"kind": type(self).__name__, **found}


_FACTORS: dict[str, Callable[[int, int], float]] = {
    "cosine": lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "linear": lambda step, steps: 1 - step / steps,
    "constant": lambda step, steps: 1.0,
}
