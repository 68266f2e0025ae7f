"""Batch-norm statistics, measured anew on the smaller network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.batches import Call, untouched
from secateur.measure.calibration import Calibration
from secateur.recover.job import Job

_Norm = nn.modules.batchnorm._BatchNorm
_MANY = 32  # samples: where a quarter of the calls has as many, it is looked at first
_IN_VAIN = 1.5  # times the distance


@dataclass(frozen=True)
class Recalibrate:
    """Re-estimate the running statistics of batch normalisations, as a cumulative average.

    Helps after a plain cut; after a least-squares repair it can hurt, and is then taken back. Norms
    that no data reaches keep their statistics.

    Paper: Li et al., EagleEye, ECCV 2020.
    """

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        data = job.calibration
        if not norms_of(job.small):
            return
        if data is None:
            job.note("batch-norm statistics: there is no data to measure them on")
            return
        try:
            job.attempt("batch-norm statistics", lambda: self._measure(job, data))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            job.note("batch-norm statistics: too few samples to measure any, unchanged")

    def _measure(self, job: Job, data: Calibration) -> None:
        """Measure on all calls, unless a part of many shows that it is in vain."""
        calls = data.fit
        part = len(calls) // 4
        if part * data.samples >= _MANY * len(data.calls):
            measure(job.small, calls[:part])
            if job.measure() > _IN_VAIN * job.distance:
                return
        measure(job.small, calls)


def norms_of(model: nn.Module) -> dict[str, _Norm]:
    """Batch normalisations with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.running_mean is not None
    }


def measure(model: nn.Module, calls: Sequence[Call]) -> None:
    """Set running statistics to the cumulative averages over some calls, in one pass.

    Raises:
        ValueError: PyTorch's, where a call holds a single value of a channel.
    """
    norms = list(norms_of(model).values())
    old = [[buffer.clone() for buffer in _buffers(norm)] for norm in norms]
    new: list[list[Tensor]] = []
    with untouched(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        for call in calls:
            call.run(model)
        new = [[buffer.clone() for buffer in _buffers(norm)] for norm in norms]
    for norm, before, after in zip(norms, old, new, strict=True):
        used = norm.num_batches_tracked is None or int(after[-1]) > 0
        with torch.no_grad():
            for buffer, value in zip(_buffers(norm), after if used else before, strict=True):
                buffer.copy_(value)


def _buffers(norm: _Norm) -> list[Tensor]:
    """Mean, variance and, where there is one, the count."""
    found = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    return [buffer for buffer in found if buffer is not None]
