"""What repairs quality after a cut, without training."""

from secateur.recover.job import Job, Recover
from secateur.recover.recalibrate import Recalibrate
from secateur.recover.reconstruct import Reconstruct
from secateur.recover.run import check_steps, repair

__all__ = ["Job", "Recalibrate", "Reconstruct", "Recover", "check_steps", "repair"]
