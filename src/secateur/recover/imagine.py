"""Repair without data: made-up inputs, to which batch normalisations are fitted for the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.plan import Plan
from secateur.core.tensors import light_copy
from secateur.measure.calibration import calibration
from secateur.recover.job import Job
from secateur.recover.recalibrate import measure, norms_of
from secateur.recover.synthetic import synthetic


@contextmanager
def imagined(job: Job, samples: int = 256) -> Iterator[Job | None]:
    """The same job on noise; None, with a note, where inputs cannot be made up.

    Batch normalisations of a copy of the dense network take the statistics of the noise, and those
    of the smaller one the same for what it kept. At the end the smaller one has its own again, with
    the changes of means that repairs made.
    """
    calls, words = synthetic(job.calls[0], samples, job.seed) if job.calls else (None, "no example")
    if calls is None:
        job.note(f"no repair on made-up data: {words}")
        yield None
        return
    dense = light_copy(job.dense)
    with suppress(ValueError):  # of a single value no deviation can be measured
        measure(dense, calls)
    old = _fit(job.small, _statistics(job.dense), _statistics(dense), job.plan)
    start = {name: tensor.clone() for name, tensor in _statistics(job.small).items()}
    try:
        made = Job(dense, job.small, job.plan, job.roles, calibration(dense, calls), job.seed)
        yield made
        for note in made.notes:
            job.note(f"{note} (on {words})")
    finally:
        with torch.no_grad():
            for name, tensor in _statistics(job.small).items():
                change = tensor - start[name] if name.endswith("running_mean") else 0
                tensor.copy_(old[name] + change)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, norm in norms_of(model).items()
        for key in ("running_mean", "running_var")
        if (tensor := getattr(norm, key)) is not None
    }


def _fit(
    small: nn.Module, before: dict[str, Tensor], after: dict[str, Tensor], plan: Plan
) -> dict[str, Tensor]:
    """Move the smaller network's statistics as the dense one's moved; returns the old ones."""
    old: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in _statistics(small).items():
            old[name] = tensor.clone()
            layouts = plan.layouts.get(name)
            keep = None if layouts is None else np.flatnonzero(layouts[0].keep(plan.keeps))
            first, last = before.get(name), after.get(name)
            if first is None or last is None:
                continue
            if keep is not None:
                where = torch.from_numpy(keep).to(tensor.device)
                first, last = first[where], last[where]
            if len(last) != len(tensor):
                continue
            if name.endswith("running_mean"):
                tensor.add_(last - first)
            else:
                tensor.mul_(last / first.clamp(min=1e-12))
    return old


__all__ = ["imagined"]
