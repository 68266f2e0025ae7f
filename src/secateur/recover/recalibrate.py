"""Batch-norm statistics, measured anew on the smaller network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.core.batches import untouched
from secateur.recover.job import Job

_Norm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Recalibrate:
    """Re-estimate the running statistics of batch normalisations, as a cumulative average.

    Helps after a plain cut; after a least-squares repair it can hurt, and is then taken back. Norms
    that no data reaches keep their statistics.

    Paper: Li et al., EagleEye, ECCV 2020.
    """

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        norms = [
            m for m in job.small.modules() if isinstance(m, _Norm) and m.running_mean is not None
        ]
        if not norms:
            return
        try:
            job.attempt("batch-norm statistics", lambda: _measure(job, norms))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            job.note("batch-norm statistics: too few samples to measure any, unchanged")


def _measure(job: Job, norms: list[_Norm]) -> None:
    old = [[buffer.clone() for buffer in _buffers(norm)] for norm in norms]
    new: list[list[Tensor]] = []
    with untouched(job.small), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        for call in job.calibration.fit:
            call.run(job.small)
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
