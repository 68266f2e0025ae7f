"""Batch-norm statistics, measured anew on the smaller network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from secateur.recover.job import Job

_Norm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Recalibrate:
    """Re-estimate the running statistics of batch normalisations, as a cumulative average.

    Helps after a plain cut; after a least-squares repair it can hurt, and is then taken back.

    Paper: Li et al., EagleEye, ECCV 2020.
    """

    def run(self, job: Job) -> None:
        """Repair `job.small` in place; what does not help is taken back."""
        norms = [
            m for m in job.small.modules() if isinstance(m, _Norm) and m.running_mean is not None
        ]
        if norms:
            job.attempt("batch-norm statistics", lambda: _measure(job, norms))


def _measure(job: Job, norms: list[_Norm]) -> None:
    modes = [(module, module.training) for module in job.small.modules()]
    momenta = [norm.momentum for norm in norms]
    random = torch.random.get_rng_state()
    try:
        job.small.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.training = True
        with torch.no_grad():
            for call in job.calibration.fit:
                call.run(job.small)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
        torch.random.set_rng_state(random)
