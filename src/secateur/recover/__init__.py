"""What repairs quality after a cut, without training."""

from secateur.recover.compensate import Compensate
from secateur.recover.fold import Fold
from secateur.recover.job import Job, Recover
from secateur.recover.recalibrate import Recalibrate
from secateur.recover.reconstruct import Reconstruct
from secateur.recover.run import check_steps, repair
from secateur.recover.synthetic import synthetic

__all__ = [
    "Compensate", "Fold", "Job", "Recalibrate", "Reconstruct", "Recover", "check_steps", "repair",
    "synthetic",
]  # fmt: skip
