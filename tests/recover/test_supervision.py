"""Who teaches a job, and by what."""

from __future__ import annotations

import torch
from repair_nets import shrink
from torch import nn

from secateur.recover.supervision import Supervision


def test_the_dense_network_teaches_unless_there_is_an_earlier_one() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    job = shrink(model, torch.randn(2, 4), {"0": [1]}).job([torch.randn(30, 4)])
    assert job.teacher is model and job.supervision.data is None and job.masks is None
    first = nn.Linear(4, 2)
    job.supervision = Supervision(teacher=first)
    assert job.teacher is first
