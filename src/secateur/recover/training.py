"""Recovery by training: what all kinds of it have in common, and fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from secateur.core.errors import RecipeError
from secateur.core.tensors import snapshot
from secateur.measure.calibration import batch_call
from secateur.measure.loss import default_loss, loss_of
from secateur.recover.accelerated import device_of, own_draws, require_accelerate
from secateur.recover.course import Course
from secateur.recover.feed import Feed, feed
from secateur.recover.job import Job
from secateur.recover.loop import Objective, Outcome, held_loss, train


class Trainer(Protocol):
    """Makes a network better, and says how good one is."""

    def held_loss(self, model: nn.Module) -> float:
        """The loss on what is held out."""
        ...

    def fit(self, model: nn.Module, enter: float = 0.0) -> Outcome:
        """Train in place; the model ends as the best that was seen.

        enter: the part of the course that counts as done already.
        """
        ...


class Training(Course):
    """A repair that trains; the parent of `Finetune` and `Distill`."""

    title: ClassVar[str] = "training"

    def check(self, data: Any) -> None:
        """Refuse what can be known to fail before anything is computed."""
        name = type(self).__name__
        require_accelerate(name)
        if data is None:
            raise RecipeError(f"{name} needs data to train on", hint="give data=[batch, …]")

    def objective(self, job: Job) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def trainer(self, job: Job) -> Trainer:
        """Ready to train on the job's data."""
        self.check(job.supervision.data)
        found = feed(job.supervision.data, validation=self.validation, seed=self.seed_of(job))
        for text in found.notes:
            job.note(f"{self.title}: {text}")
        return _Loop(found, self.objective(job), self.seed_of(job), job.masks, self)

    def run(self, job: Job) -> None:
        """Train `job.small` in place; what does not help is taken back."""
        job.note(f"{self.title}: {said(self.trainer(job).fit(job.small))}")
        job.refresh()

    def loss_of(self, job: Job) -> Callable[[nn.Module, Any], Tensor]:
        """The user's loss, or the default one."""
        return loss_of(self.loss or job.supervision.loss)

    def seed_of(self, job: Job) -> int:
        """Its own seed, or the job's."""
        return job.seed if self.seed is None else self.seed


@dataclass(frozen=True)
class Finetune(Training):
    """Train what a cut has left, on the user's data and loss or with the user's own trainer.

    fit: `model -> None`, a trainer of the user's own, which trains in place; then all settings but
    `loss`, `validation` and `seed` are its business. What it made worse on held-out data is taken
    back. The other settings: see `Course`.

    Example:
        >>> x = torch.randn(200, 3)
        >>> data = [(part, part.sum(1, keepdim=True)) for part in x.split(20)]
        >>> net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> tune = sc.Finetune(epochs=3, lr=0.01)
        >>> result = sc.prune(net, data=data, recover=[tune], latency=False)
        >>> print(*result.repairs)
        fine-tuning: held-out loss ... -> ... after 27 of 27 steps

    Paper: Han et al., Learning both Weights and Connections, NeurIPS 2015.
    """

    fit: Callable[[nn.Module], object] | None = field(default=None, kw_only=False)

    title: ClassVar[str] = "fine-tuning"

    def check(self, data: Any) -> None:
        """A trainer of the user's own needs neither data nor Accelerate."""
        if self.fit is None:
            super().check(data)
        elif not callable(self.fit):
            raise RecipeError(
                f"Finetune({self.fit!r}): expected a function model -> None",
                hint="epochs and all else are given by name: Finetune(epochs=2)",
            )

    def objective(self, job: Job) -> Objective:
        """The loss itself."""
        loss = self.loss_of(job)
        return lambda model: nullcontext(lambda wrapped, batch, name: loss(wrapped, batch))

    def trainer(self, job: Job) -> Trainer:
        """Secateur's loop, or the user's."""
        if self.fit is None:
            return super().trainer(job)
        data = job.supervision.data
        if self.validation is None:
            job.note(f"{self.title}: judged on data that the trainer may have seen")
        source = self.validation if data is None else data
        found = feed(source, validation=self.validation, seed=self.seed_of(job))
        return _Own(found, self.objective(job), self.seed_of(job), job.masks, self.fit)

    def run(self, job: Job) -> None:
        """Train; a trainer of the user's own is judged by what there is to judge it by."""
        fit = self.fit
        if fit is None or self.validation is not None or self._has_loss(job):
            super().run(job)
        else:
            job.attempt(self.title, lambda: _guarded(fit, job.small, self.seed_of(job), job.masks))

    def _has_loss(self, job: Job) -> bool:
        data = job.supervision.data
        if data is None:
            return False
        return self.loss_of(job) is not default_loss or labelled(job.small, first(data))


@dataclass(frozen=True)
class _Judged:
    """What trainers have in common: data of which a part is held out to judge by."""

    feed: Feed
    objective: Objective
    seed: int
    masks: Mapping[str, Tensor] | None

    def held_loss(self, model: nn.Module) -> float:
        return held_loss(model, self.feed.held, self.objective, self.seed)


@dataclass(frozen=True)
class _Loop(_Judged):
    """Secateur's own loop."""

    course: Course

    def fit(self, model: nn.Module, enter: float = 0.0) -> Outcome:
        return train(
            model, self.feed, self.objective, self.course, enter=enter, seed=self.seed,
            masks=self.masks,
        )  # fmt: skip


@dataclass(frozen=True)
class _Own(_Judged):
    """The user's trainer."""

    function: Callable[[nn.Module], object]

    def fit(self, model: nn.Module, enter: float = 0.0) -> Outcome:
        restore = snapshot(model)
        before, after = self.held_loss(model), math.nan
        try:
            _guarded(self.function, model, self.seed, self.masks)
            after = self.held_loss(model)
        finally:
            if not after < before:
                restore()
        helped = after < before
        return Outcome(
            before=before, best=after if helped else before, best_step=int(helped), steps=1,
            stopped="" if helped else f"the loss was {after:.4g} then",
        )  # fmt: skip


def _guarded(
    function: Callable[[nn.Module], object],
    model: nn.Module,
    seed: int,
    masks: Mapping[str, Tensor] | None,
) -> None:
    """Call a user's trainer; modes, gradients, random states and zeros are as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    grads = {p: (p.requires_grad, p.grad) for p in model.parameters()}
    try:
        with own_draws(seed, device_of(model)), torch.enable_grad():
            function(model)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, (wanted, grad) in grads.items():
            parameter.requires_grad_(wanted)
            parameter.grad = grad
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, mask in (masks or {}).items():
                named[name].mul_(mask.to(named[name].device))


def labelled(model: nn.Module, batch: Any) -> bool:
    """Whether a batch holds more than the model's arguments.

    Example:
        >>> labelled(nn.Linear(3, 2), (torch.zeros(4, 3), torch.zeros(4)))
        True
        >>> labelled(nn.Linear(3, 2), torch.zeros(4, 3))
        False
    """
    if isinstance(batch, Mapping):
        return any(key in batch for key in ("labels", "label", "targets", "target", "y"))
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return False
    return not isinstance(batch[0], Tensor) or len(batch) > len(batch_call(model, batch).args)


def first(data: Iterable[Any]) -> Any:
    """The first batch."""
    return next(iter(feed(data, validation=data).batches(0, 1)))[1]


def said(found: Outcome) -> str:
    """An outcome in words."""
    end = f"; stopped: {found.stopped}" if found.stopped else ""
    if not found.best < found.before:
        return f"no help on held-out data (loss {found.before:.4g}), undone{end}"
    where = f" after {found.best_step} of {found.steps} steps" if found.steps > 1 else ""
    return f"held-out loss {found.before:.4g} -> {found.best:.4g}{where}{end}"
