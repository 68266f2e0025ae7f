"""Trains all levels of a dial together, on one set of weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, mse_loss

from secateur.adapt.level import Entry, Level, sliced, times
from secateur.apply.cut import replay
from secateur.core.batches import hooked, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.tensors import light_copy, named_tensors, own_memory
from secateur.measure.calibration import batch_call
from secateur.measure.loss import Loss as Task
from secateur.measure.loss import loss_of
from secateur.measure.watch import scores_of
from secateur.recover.accelerated import require_accelerate
from secateur.recover.course import Course
from secateur.recover.feed import feed
from secateur.recover.loop import Loss, held_loss, train
from secateur.recover.training import first, labelled, said


class Joint(nn.Module):
    """All levels as functions of the dense weights, so that gradients of any of them reach these.

    What a level does not share (batch-norm statistics, biases that a repair changed) is its own and
    is trained with it; the stored changes of its weights stay as they are.

    share: the level that runs.
    """

    def __init__(self, dense: nn.Module, levels: Sequence[Level]) -> None:
        super().__init__()
        self.dense = light_copy(dense)
        own_memory(self.dense, dense)
        self.share = 1.0
        self.levels = list(levels)
        self.own = nn.ModuleList([nn.Module() for _ in levels])
        sources = dict(named_tensors(self.dense))
        self.smaller = []  # a list, so that these are no parts of the module
        for level, own in zip(levels, self.own, strict=True):
            small = light_copy(self.dense)
            replay(small, level.plan, keep=False, check=False)
            self.smaller.append(small.requires_grad_(False))
            for name, entry in level.entries.items():
                source = sources[name]
                if entry.kind == "exact" or (
                    entry.kind == "slice" and not isinstance(source, nn.Parameter)
                ):
                    _keep(own, _key(name), level.tensor(name, source).clone(), source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the level that is set."""
        if self.share == 1.0:
            return self.dense(*args, **kwargs)
        place = next(k for k, level in enumerate(self.levels) if level.share == self.share)
        small = self.smaller[place]
        small.train(self.training)
        sources = dict(named_tensors(self.dense))
        for name in self.levels[place].entries:
            _put(small, name, self.tensor(place, name, sources[name]))
        return small(*args, **kwargs)

    def tensor(self, place: int, name: str, source: Tensor) -> Tensor:
        """One tensor of a level, as a function of the dense one."""
        level, own = self.levels[place], self.own[place]
        if hasattr(own, _key(name)):
            return getattr(own, _key(name))
        base = sliced(source, level.plan.layouts.get(name, ()), level.plan.keeps)
        if level.entries[name].kind == "slice":
            return base
        factor, change = level.change(name)
        return (times(base, factor) + change).to(source.dtype)

    def write(self, dense: nn.Module) -> None:
        """Give what was trained to the dense network and to the levels."""
        targets = dict(named_tensors(dense))
        with torch.no_grad():
            for name, tensor in named_tensors(self.dense):
                targets[name].copy_(tensor)
            for level, own in zip(self.levels, self.own, strict=True):
                for name in level.entries:
                    if hasattr(own, _key(name)):
                        value = getattr(own, _key(name)).detach().clone()
                        level.entries[name] = Entry("exact", value.shape)
                        level.store(name, "exact", value)
                level.distance = (float("nan"), float("nan"))


def fit(
    dense: nn.Module, levels: Sequence[Level], data: Iterable[Any], middle: int, settings: Any
) -> tuple[str, ...]:
    """Train in place, and say what it did; see `Dial.fit`."""
    require_accelerate("dial.fit")
    if middle < 0:
        raise RecipeError(f"middle={middle!r}: expected how many more levels a step trains")
    course, seed = Course(**settings), settings.get("seed") or 0
    found = feed(data, validation=course.validation, seed=seed)
    batch = first(data) if found.length else None
    has_labels = course.loss is not None or labelled(dense, batch)
    joint = Joint(dense, levels).train(dense.training)
    sandwich = _Sandwich(dense, loss_of(course.loss) if has_labels else None, middle)
    before = [held_loss(joint, found.held, sandwich.of(k), seed) for k in joint_shares(joint)]
    outcome = train(joint, found, sandwich.all, course, seed=seed)
    if outcome.best < outcome.before:
        after = [held_loss(joint, found.held, sandwich.of(k), seed) for k in joint_shares(joint)]
        joint.write(dense)
        each = ", ".join(
            f"{share:g}: {a:.4g} -> {b:.4g}"
            for share, a, b in zip(joint_shares(joint), before, after, strict=True)
        )
        return (*found.notes, f"all levels trained together: {said(outcome)} ({each})")
    return (*found.notes, f"all levels trained together: {said(outcome)}")


def joint_shares(joint: Joint) -> tuple[float, ...]:
    """The levels, largest first."""
    return (1.0, *(level.share for level in joint.levels))


class _Sandwich:
    """The loss of all levels together.

    A step trains the largest level on the labels, and the smallest and a few others on what the
    largest one answers. Without labels all learn what the dense network answered before.
    """

    def __init__(self, dense: nn.Module, task: Task | None, middle: int) -> None:
        self.dense, self.task, self.middle = dense, task, middle
        self.before = light_copy(dense)
        own_memory(self.before, dense)

    @contextmanager
    def all(self, student: nn.Module) -> Iterator[Loss]:
        """Of training steps, and of all levels where it is judged."""
        assert isinstance(student, Joint)

        def loss(model: nn.Module, batch: Any, name: Any) -> Tensor:
            if not student.training:
                shares = joint_shares(student)
                values = [self._one(student, model, batch, share)[0] for share in shares]
                return torch.stack(values).mean()
            value, answer = self._one(student, model, batch, 1.0)
            call, total = batch_call(self.dense, batch), value
            for share in self._smaller(student):
                student.share = share
                total = total + apart(_scores(call.run(model)), answer.detach(), batch)
            return total

        with untouched(self.before):
            yield loss

    def of(self, share: float) -> Any:
        """Of one level."""

        @contextmanager
        def on(student: nn.Module) -> Iterator[Loss]:
            assert isinstance(student, Joint)
            with untouched(self.before):
                yield lambda model, batch, name: self._one(student, model, batch, share)[0]

        return on

    def _smaller(self, student: Joint) -> list[float]:
        """The smallest level, and a few that are drawn of those in between."""
        shares = list(joint_shares(student)[1:])
        between = random.sample(shares[:-1], min(self.middle, len(shares) - 1))
        return [shares[-1], *between]

    def _one(
        self, student: Joint, model: nn.Module, batch: Any, share: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of one level, and its scores."""
        student.share = share
        if self.task is None:
            call = batch_call(self.dense, batch)
            with torch.no_grad():
                wanted = _scores(call.run(self.before))
            found = _scores(call.run(model))
            return apart(found, wanted, batch), found
        seen: list[Any] = []
        note = lambda module, args, out: seen.append(out)  # noqa: E731
        with hooked([(student.register_forward_hook, note)]):
            value = self.task(model, batch)
        return value, _scores(seen[-1])


def apart(found: Tensor, wanted: Tensor, batch: Any) -> Tensor:
    """How far answers are from others: the divergence of classes, or the squared difference.

    Classes are in the last dimension, of images `[n, classes, h, w]` in the second. Where labels
    are no integers, answers are no classes.
    """
    labels = batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    values = isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() > 0
    if found.dim() < 2 or values:
        return mse_loss(found.float(), wanted.float())
    dim = -1 if found.dim() <= 3 else 1
    first, second = (x.float().log_softmax(dim) for x in (found, wanted))
    return kl_div(first, second, reduction="none", log_target=True).sum(dim).mean()


def _scores(output: Any) -> Tensor:
    found = scores_of(output)
    if found is None:
        raise InputError(
            f"the model returns a {type(output).__name__}, in which there are no scores",
            hint="wrap it so that its forward returns a tensor",
        )
    return found


def _keep(own: nn.Module, key: str, value: Tensor, source: Tensor) -> None:
    if isinstance(source, nn.Parameter) and value.is_floating_point():
        own.register_parameter(key, nn.Parameter(value, requires_grad=source.requires_grad))
    else:
        own.register_buffer(key, value)


def _key(name: str) -> str:
    return name.replace(".", "/")


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Have a module use a tensor that is no parameter, in the place of one."""
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    if key in module._parameters:
        module._parameters[key] = tensor  # type: ignore[assignment]
        if isinstance(module, nn.RNNBase):
            module._flat_weights[module._flat_weights_names.index(key)] = tensor
    elif key in module._buffers:
        module._buffers[key] = tensor


__all__ = ["Joint", "apart", "fit"]
