"""What repairs quality after a cut: least squares without labels, or training."""

from secateur.recover.compensate import Compensate
from secateur.recover.distill import Distill
from secateur.recover.fold import Fold
from secateur.recover.job import Job, Recover
from secateur.recover.lowrank import LowRank
from secateur.recover.recalibrate import Recalibrate
from secateur.recover.reconstruct import Reconstruct
from secateur.recover.rewind import Rewind
from secateur.recover.run import check_needs, check_steps, repair
from secateur.recover.supervision import Supervision
from secateur.recover.synthetic import synthetic
from secateur.recover.training import Finetune

__all__ = [
    "Compensate", "Distill", "Finetune", "Fold", "Job", "LowRank", "Recalibrate", "Reconstruct",
    "Recover", "Rewind", "Supervision", "check_needs", "check_steps", "repair", "synthetic",
]  # fmt: skip
