"""The training loop: rounds of steps, each judged on held-out batches; the best one is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.core.tensors import light_copy, own_memory
from secateur.measure.gradients import moved, samples
from secateur.recover.accelerated import accelerator, device_of, draw_from, own_draws
from secateur.recover.checkpoint import (
    Checkpoint,
    key_of,
    model_state,
    optimizer_state,
    set_model_state,
    set_optimizer_state,
)
from secateur.recover.course import Course
from secateur.recover.feed import Feed

if TYPE_CHECKING:
    from accelerate import Accelerator

Loss = Callable[[nn.Module, Any, Any], Tensor]
"""`(model, batch, name) -> scalar`; the name is what the feed calls the batch, or None."""
Objective = Callable[[nn.Module], AbstractContextManager[Loss]]
"""Gives the loss for one network, which may be wrapped (replicated, sharded) when it is called."""


@dataclass(frozen=True)
class Outcome:
    """The loss on what is held out, before and at its best, after so many of so many steps.

    stopped: why it ended early, if it did.
    """

    before: float
    best: float
    best_step: int
    steps: int
    stopped: str = ""


def held_loss(model: nn.Module, held: Iterable[Any], objective: Objective, seed: int) -> float:
    """The mean loss over held-out batches, in eval mode; the model is left as it was."""
    device = device_of(model)
    modes = {module: module.training for module in model.modules()}
    with own_draws(seed, device), objective(model) as loss:
        try:
            draw_from(seed)
            return _mean_loss(model.eval(), held, loss, device)
        finally:
            for module, mode in modes.items():
                module.training = mode


def train(
    small: nn.Module,
    feed: Feed,
    objective: Objective,
    course: Course,
    *,
    enter: float = 0.0,
    seed: int = 0,
    masks: Mapping[str, Tensor] | None = None,
) -> Outcome:
    """Train a copy, and give its weights to `small` whenever it is better on what is held out.

    So `small` ends as the best that was seen, which may be what it was. Parameters that require no
    gradients are not trained; those with masks keep their zeros. Modes, gradients and random states
    are as before. enter: the part of the course that counts as done already. Memory: a copy of the
    model, its gradients, and the optimizer's state.

    Raises:
        InputError: There is nothing to train, or too little to train on.
    """
    with ExitStack() as stack:
        stack.enter_context(own_draws(seed, device_of(small)))
        engine = stack.enter_context(accelerator(small, course.precision))
        stack.enter_context(torch.enable_grad())
        work = light_copy(small)
        own_memory(work, small)
        if engine.num_processes > 1:
            work = work.to(engine.device)
        loss = stack.enter_context(objective(work))
        return _Training(small, work, feed, loss, course, engine, seed, masks or {}).run(enter)


class _Training:
    """One training in progress."""

    def __init__(
        self,
        small: nn.Module,
        work: nn.Module,
        feed: Feed,
        loss: Loss,
        course: Course,
        engine: Accelerator,
        seed: int,
        masks: Mapping[str, Tensor],
    ) -> None:
        trained = [p for p in work.parameters() if p.requires_grad]
        if not trained:
            raise InputError(
                "no parameter of the model requires gradients, so that there is nothing to train",
                hint="call model.requires_grad_(True) first",
            )
        self.small, self.work, self.feed, self.loss = small, work, feed, loss
        self.course, self.engine, self.seed, self.masks = course, engine, seed, masks
        self.device = next(work.parameters()).device
        self.model, self.optimizer = engine.prepare(work, course.make_optimizer(trained))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.rank, self.world = engine.process_index, engine.num_processes
        self.share = course.accumulate * self.world  # batches that one step takes
        if feed.length < self.share:
            raise InputError(
                f"an epoch has {feed.length} batches, and one step takes {self.share}",
                hint="make the batches smaller",
            )
        self.steps = course.length(feed.length // self.share)
        self.place: Checkpoint | None = None

    def run(self, enter: float) -> Outcome:
        """Rounds until the end, or until nothing gets better."""
        course, start = self.course, perf_counter()
        entry = min(round(enter * self.steps), self.steps)
        every = course.every or self.feed.length // self.share
        if course.checkpoint is not None:
            how = {
                **course.key, "seed": self.seed, "world": self.world, "entry": entry,
                "of": self.steps, "groups": self._groups(),
            }  # fmt: skip
            self.place = Checkpoint(course.checkpoint, key_of(self.small, **how))
        self._mask()
        self.best = self.before = self._judge()
        self.best_step, self.waited, begin = entry, 0, 0
        stopped = ""
        if (saved := self._resume()) is not None:
            begin, stopped = saved["round"] + 1, saved["stopped"]
        self._say("start", step=entry + begin * every, held=self.best)
        rounds = -(-(self.steps - entry) // every)
        for number in range(begin, rounds):
            if stopped:
                break
            first = entry + number * every
            last = min(first + every, self.steps)
            value = self._round(number, first, last)
            held = self._judge() if math.isfinite(value) else math.nan
            if held < self.best:
                self.best, self.best_step, self.waited = held, last, 0
                self._publish()
            else:
                self.waited += 1
            stopped = self._verdict(value, last)
            rate, spent = self.optimizer.param_groups[0]["lr"], perf_counter() - start
            self._say("round", step=last, loss=value, held=held, rate=rate, seconds=spent)
            self._save(number, stopped)
        found = Outcome(self.before, self.best, self.best_step, self.steps, stopped)
        self._say("end", **asdict(found))
        return found

    def _groups(self) -> list[dict[str, Any]]:
        """What the optimizer was made with."""
        groups = self.optimizer.param_groups
        return [{k: v for k, v in group.items() if k != "params"} for group in groups]

    def _verdict(self, value: float, step: int) -> str:
        if not math.isfinite(value):
            return f"the loss became {value} before step {step}"
        patience = self.course.patience
        if patience is not None and self.waited >= patience:
            return f"no better in {self.waited} evaluations"
        return ""

    def _round(self, number: int, first: int, last: int) -> float:
        """Take steps; returns the mean loss of their batches on this process."""
        course = self.course
        draw_from(self.seed, number, self.rank)
        self.model.train()
        batches = self._batches(first, last)
        total = torch.zeros((), device=self.device)
        for step in range(first, last):
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * course.factor(step, self.steps)
            for part in range(course.accumulate):
                name, batch = next(batches)
                waits = part < course.accumulate - 1
                with self.engine.no_sync(self.model) if waits else nullcontext():
                    value = self.loss(self.model, moved(batch, self.device), name)
                    self.engine.backward(value / course.accumulate)
                total += value.detach().float()
            if course.clip is not None:
                self.engine.clip_grad_norm_(self.model.parameters(), course.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._mask()
        return float(total) / ((last - first) * course.accumulate)

    def _batches(self, first: int, last: int) -> Iterator[tuple[int | None, Any]]:
        """An epoch ends where fewer batches are left than a step takes."""
        per_epoch = self.feed.length // self.share
        step = first
        while step < last:
            epoch, within = divmod(step, per_epoch)
            count = min(per_epoch - within, last - step)
            start = epoch * self.feed.length + within * self.share
            yield from self.feed.batches(start, start + count * self.share, self.rank, self.world)
            step += count

    def _mask(self) -> None:
        """Weights that are not there stay zero."""
        named = dict(self.work.named_parameters())
        with torch.no_grad():
            for name, mask in self.masks.items():
                if name in named:
                    parameter = named[name]
                    parameter.mul_(_placed(mask, parameter))

    def _judge(self) -> float:
        """The held-out loss, the same on all processes."""
        if self.world > 1:
            self._average_buffers()
        draw_from(self.seed)
        found = _mean_loss(self.model.eval(), self.feed.held, self.loss, self.device)
        if self.world == 1:
            return found
        return float(self.engine.reduce(torch.tensor(found, device=self.device), "mean"))

    def _average_buffers(self) -> None:
        """Every process has seen other batches: running statistics become their mean."""
        with torch.no_grad():
            for buffer in self.work.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.engine.reduce(buffer, "mean"))

    def _publish(self) -> None:
        """Give the weights to `small`."""
        source = dict(_named(self.work))
        if self.engine.distributed_type.value == "FSDP":
            source.update(model_state(self.model, everywhere=True))
        with torch.no_grad():
            for name, tensor in _named(self.small):
                tensor.copy_(source[name])

    def _save(self, number: int, stopped: str) -> None:
        if self.place is None:
            return
        states = model_state(self.model)
        tensors, values = optimizer_state(self.model, self.optimizer.optimizer)
        if self.rank == 0:
            scaler = self.engine.scaler
            record = {
                "round": number, "best": self.best, "best_step": self.best_step,
                "before": self.before, "waited": self.waited, "stopped": stopped,
                "optimizer": values, "scaler": None if scaler is None else scaler.state_dict(),
            }  # fmt: skip
            parts = {"model": states, "best": dict(_named(self.small)), "optimizer": tensors}
            named = {f"{part}/{k}": v for part, found in parts.items() for k, v in found.items()}
            self.place.save(record, named)
        self.engine.wait_for_everyone()

    def _resume(self) -> dict[str, Any] | None:
        saved = None if self.place is None else self.place.load()
        if saved is None:
            return None
        record, tensors = saved
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        set_model_state(self.model, parts["model"])
        with torch.no_grad():
            for name, tensor in _named(self.small):
                tensor.copy_(parts["best"][name])
        inner = self.optimizer.optimizer
        set_optimizer_state(self.model, inner, parts["optimizer"], record["optimizer"])
        if self.engine.scaler is not None:
            self.engine.scaler.load_state_dict(record["scaler"])
        self.best, self.before = record["best"], record["before"]
        self.best_step, self.waited = record["best_step"], record["waited"]
        return record

    def _say(self, what: str, **values: Any) -> None:
        if self.course.on_event is not None and self.rank == 0:
            self.course.on_event({"event": what, "steps": self.steps, **values})


def _mean_loss(model: nn.Module, held: Iterable[Any], loss: Loss, device: torch.device) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for number, batch in enumerate(held):
            size = samples(dict(batch) if isinstance(batch, Mapping) else batch) or 1
            total += size * float(loss(model, moved(batch, device), ("held", number)))
            count += size
    if not count:
        raise InputError("no batch is held out", hint="validation= has no batch")
    return total / count


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _placed(mask: Tensor, parameter: Tensor) -> Tensor:
    """The mask beside its parameter, sharded as that is."""
    mask = mask.to(parameter.device)
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return mask
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(mask, mesh, parameter.placements)  # type: ignore[attr-defined]
