"""Distillation: what a cut has left learns to answer as the dense network does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, mse_loss

from secateur.core.batches import Call, untouched
from secateur.core.errors import InputError, RecipeError
from secateur.core.registry import did_you_mean
from secateur.core.tensors import light_copy
from secateur.measure.calibration import batch_call
from secateur.measure.watch import scores_of
from secateur.recover.accelerated import device_of
from secateur.recover.job import Job
from secateur.recover.loop import Loss, Objective
from secateur.recover.training import Training, labelled


@dataclass(frozen=True)
class Distill(Training):
    """Train on the answers of the network before the cut, with or without labels.

    The loss is `alpha * T² * KL(teacher || student) + (1 - alpha) * loss` of softened scores, and
    the part with labels is there if there are labels. Of outputs that are no scores of classes
    (labels that are not integers) the squared difference takes the place of the divergence.

    The teacher is the network as it was before all pruning. It runs in eval mode without gradients,
    on the same inputs, and takes no memory but its activations.

    Args:
        teacher: Another teacher.
        temperature: T.
        alpha: The weight of the teacher's answers, from 0 to 1.
        features: Names of modules whose outputs are to be alike too, such as blocks; they must
            have the width that they had.
        beta: The weight of each of these, relative to the variance of the teacher's.
        soft: Whether outputs are scores of classes; by default what the labels say, else True.
        cache: Keep the teacher's answers where batches repeat (lists of batches, loaders that do
            not shuffle), so that it runs once; takes their memory.

    The other settings: see `Course`.

    Example:
        >>> data = [torch.randn(20, 3) for _ in range(10)]
        >>> net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 4))
        >>> result = sc.prune(net, data=data, recover=[sc.Distill(epochs=2)], latency=False)
        >>> print(*result.repairs)
        distillation: held-out loss ... -> ... after 18 of 18 steps

    Papers: Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Romero et al.,
    FitNets, ICLR 2015.
    """

    teacher: nn.Module | None = field(default=None, repr=False)
    temperature: float = field(default=4.0, kw_only=True)
    alpha: float = field(default=0.9, kw_only=True)
    features: Sequence[str] = field(default=(), kw_only=True)
    beta: float = field(default=1.0, kw_only=True)
    soft: bool | None = field(default=None, kw_only=True)
    cache: bool = field(default=False, kw_only=True)

    title: ClassVar[str] = "distillation"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        super().__post_init__()
        if self.teacher is not None and not isinstance(self.teacher, nn.Module):
            raise RecipeError(
                f"Distill({self.teacher!r}): a teacher is an nn.Module",
                hint="epochs and all else are given by name: Distill(epochs=2)",
            )
        if not self.temperature > 0:
            raise RecipeError(f"Distill(temperature={self.temperature!r}): expected above 0")
        if not 0 <= self.alpha <= 1:
            raise RecipeError(f"Distill(alpha={self.alpha!r}): expected a weight from 0 to 1")
        if isinstance(self.features, str):
            raise RecipeError(
                f"Distill(features={self.features!r}): expected a list of names of modules",
                hint=f"write [{self.features!r}]",
            )
        if self.cache and self.features:
            raise RecipeError("Distill keeps no features", hint="leave out cache= or features=")

    def objective(self, job: Job) -> Objective:
        """The loss against the job's teacher."""
        teacher = self.teacher or job.teacher
        for name in self.features:
            for model, whose in ((job.small, "the pruned model"), (teacher, "the teacher")):
                known = dict(model.named_modules())
                if name not in known:
                    raise RecipeError(
                        f"{whose} has no module {name!r}", hint=did_you_mean(name, known)
                    )

        @contextmanager
        def on(student: nn.Module) -> Iterator[Loss]:
            device = device_of(student)
            same = device_of(teacher) == device
            mine = teacher if same else light_copy(teacher).to(device)
            with ExitStack() as stack:
                stack.enter_context(untouched(mine))
                yield _Divergence(self, job, student, mine, stack)

        return on


class _Divergence:
    """The loss of one student against one teacher, both in the middle of a training."""

    def __init__(
        self, how: Distill, job: Job, student: nn.Module, teacher: nn.Module, stack: ExitStack
    ) -> None:
        self.how, self.student, self.teacher = how, student, teacher
        self.loss, self.given = how.loss_of(job), how.loss or job.supervision.loss
        self.calls: list[tuple[Call, Any]] = []
        self.kept: dict[Any, list[Tensor]] = {}
        self.seen: dict[tuple[bool, str], Tensor] = {}
        handle = student.register_forward_hook(self._called, with_kwargs=True)
        stack.callback(handle.remove)
        for model in (student, teacher):
            for name in how.features:
                hook = self._watch(model is student, name)
                stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)

    def __call__(self, model: nn.Module, batch: Any, name: Any) -> Tensor:
        """`model` is the student, or what wraps it."""
        self.calls.clear()
        has_labels = self.given is not None or labelled(self.student, batch)
        task = None
        if has_labels and self.how.alpha < 1:
            task = self.loss(model, batch)
        else:
            batch_call(self.student, batch).run(model)
        calls = list(self.calls)
        self.calls.clear()
        wanted = self._answers(calls, name)
        labels = _labels(batch) if has_labels else None
        apart = torch.stack(
            [
                self._apart(found, answer, labels)
                for (_, output), answer in zip(calls, wanted, strict=True)
                for found in [_scores(output)]
            ]
        ).mean()
        total = apart if task is None else self.how.alpha * apart + (1 - self.how.alpha) * task
        for module in self.how.features:
            total = total + self.how.beta * self._unlike(module)
        return total

    def _called(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.calls.append((Call(args, kwargs), output))

    def _watch(self, is_student: bool, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.seen[is_student, name] = _scores(output)

        return hook

    def _answers(self, calls: Sequence[tuple[Call, Any]], name: Any) -> list[Tensor]:
        """What the teacher says to the same calls."""
        known = self.kept.get(name) if name is not None else None
        if known is not None:
            return known
        with torch.no_grad():
            found = [_scores(call.run(self.teacher)) for call, _ in calls]
        if self.how.cache and name is not None:
            self.kept[name] = found
        return found

    def _apart(self, found: Tensor, wanted: Tensor, labels: Tensor | None) -> Tensor:
        if found.shape != wanted.shape:
            raise InputError(
                f"the outputs have shape {tuple(found.shape)}, the teacher's {tuple(wanted.shape)}",
                hint="the teacher has to answer the same inputs in the same form",
            )
        soft = self.how.soft
        if soft is None:
            soft = found.dim() > 1 and not (labels is not None and labels.is_floating_point())
        if not soft:
            return mse_loss(found.float(), wanted.float())
        dim = _class_dim(found, labels)
        t = self.how.temperature
        first, second = ((x.float() / t).log_softmax(dim) for x in (found, wanted))
        return t * t * kl_div(first, second, reduction="none", log_target=True).sum(dim).mean()

    def _unlike(self, name: str) -> Tensor:
        found, wanted = self.seen[True, name], self.seen[False, name]
        if found.shape != wanted.shape:
            raise InputError(
                f"the outputs of {name} have shape {tuple(found.shape)}, the teacher's "
                f"{tuple(wanted.shape)}",
                hint="choose modules that keep their width, such as blocks of a residual network",
            )
        return mse_loss(found.float(), wanted.float()) / wanted.float().var().clamp(min=1e-12)


def _scores(output: Any) -> Tensor:
    found = scores_of(output)
    if found is None or not found.is_floating_point():
        raise InputError(
            f"the model returns a {type(output).__name__}, in which there are no scores",
            hint="the first tensor of the output, or its logits, is what is distilled",
        )
    return found


def _class_dim(scores: Tensor, labels: Tensor | None) -> int:
    """Dimension 1 of `[n, classes, …]`, the last of `[n, tokens, classes]`."""
    if labels is not None and not labels.is_floating_point():
        if scores.shape[:-1] == labels.shape:
            return -1
        if scores.shape[:1] + scores.shape[2:] == labels.shape:
            return 1
    return -1 if scores.dim() <= 3 else 1


def _labels(batch: Any) -> Tensor | None:
    found = batch.get("labels") if isinstance(batch, dict) else batch[-1]
    return found if isinstance(found, Tensor) else None
