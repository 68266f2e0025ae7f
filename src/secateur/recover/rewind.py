"""Rewinding: back to earlier weights, or to an earlier learning rate, and training from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.apply.cut import replay
from secateur.core.errors import FileError, InputError, RecipeError
from secateur.core.plan import Plan
from secateur.core.tensors import light_copy, own_memory, snapshot
from secateur.recover.job import Job
from secateur.recover.training import Training, said


@dataclass(frozen=True)
class Rewind:
    """Train anew from an earlier point: of the weights, of the learning rate, or of both.

    state: the weights to go back to, as a state dict of the network before pruning (or as it is
    now), or a .safetensors file; of these the ones that are left are taken. None keeps the weights
    and rewinds the learning rate alone. train: the training that follows, such as `Finetune`. step:
    the part of its course that counts as done already, from 0 to below 1: the learning rate is that
    of this point, and only the rest is run.

    Rewound and trained weights stay if they are better on held-out data than the ones before.
    Without `train` the weights are set and nothing is checked.

    Example:
        >>> x = torch.randn(200, 3)
        >>> data = [(part, part.sum(1, keepdim=True)) for part in x.split(20)]
        >>> net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> early = {key: value.clone() for key, value in net.state_dict().items()}
        >>> rewind = sc.Rewind(early, train=sc.Finetune(epochs=4, lr=0.01), step=0.25)
        >>> print(*sc.prune(net, data=data, recover=[rewind], latency=False).repairs)
        rewinding: held-out loss ... -> ... after 36 of 36 steps

    Papers: Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019; Frankle et al., Linear
    Mode Connectivity, ICML 2020; Renda et al., Comparing Rewinding and Fine-tuning, ICLR 2020.
    """

    state: Mapping[str, Tensor] | str | Path | None = field(default=None, repr=False)
    train: Training | None = None
    step: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.state is None and self.train is None:
            raise RecipeError(
                "Rewind() goes back to nothing", hint="give state=, or train= and step="
            )
        if self.train is not None and not isinstance(self.train, Training):
            raise RecipeError(
                f"Rewind(train={self.train!r}): expected a training", hint="write train=Finetune()"
            )
        if not 0 <= self.step < 1:
            raise RecipeError(
                f"Rewind(step={self.step!r}): expected a part of the training, 0 <= step < 1"
            )

    def check(self, data: Any) -> None:
        """Refuse what can be known to fail before anything is computed."""
        if self.train is not None:
            self.train.check(data)

    def run(self, job: Job) -> None:
        """Rewind, and train; what does not help is taken back."""
        if self.train is None:
            self._rewind(job)
            job.note("rewinding: the weights are those of the earlier state; not checked")
            job.refresh()
            return
        trainer = self.train.trainer(job)
        before = trainer.held_loss(job.small)
        restore = snapshot(job.small)
        helped = False
        try:
            self._rewind(job)
            found = replace(trainer.fit(job.small, self.step), before=before)
            helped = found.best < before
        finally:
            if not helped:
                restore()
        job.note(f"rewinding: {said(found)}")
        job.refresh()

    def _rewind(self, job: Job) -> None:
        if self.state is None:
            return
        state = _read(self.state) if isinstance(self.state, (str, Path)) else self.state
        source = dict(_named(fitted(job, state)))
        with torch.no_grad():
            for name, tensor in _named(job.small):
                if name in source:
                    tensor.copy_(source[name])
            parameters = dict(job.small.named_parameters())
            for name, mask in (job.masks or {}).items():
                parameters[name].mul_(mask.to(parameters[name].device))


def fitted(job: Job, state: Mapping[str, Tensor]) -> nn.Module:
    """A network like the job's smaller one, with the weights that are left of an earlier state.

    Raises:
        InputError: The state fits neither the smaller network nor one that it was cut from.
    """
    ways: list[tuple[nn.Module, tuple[Plan, ...]]] = [
        (job.small, ()),
        (job.dense, (job.plan,)),
        (job.teacher, (*job.supervision.earlier, job.plan)),
    ]
    for model, plans in ways:
        if any(True for _ in _misfits(model, state)):
            continue
        twin = light_copy(model)
        own_memory(twin, model)
        with torch.no_grad():
            for name, tensor in _named(twin):
                if name in state:
                    tensor.copy_(state[name])
        for plan in plans:
            replay(twin, plan, check=False)
        return twin
    raise InputError(
        f"the earlier state does not fit the model: {next(_misfits(job.teacher, state))}",
        hint="give the state dict of the network before it was pruned",
    )


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> Any:
    for name, tensor in model.named_parameters():
        if name not in state:
            yield f"it has no {name}"
        elif state[name].shape != tensor.shape:
            yield f"{name} is {tuple(state[name].shape)} in it and {tuple(tensor.shape)} here"


def _named(model: nn.Module) -> Any:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileError(
            f"{Path(path).name} cannot be read: {error}", hint="give a .safetensors file"
        ) from error
