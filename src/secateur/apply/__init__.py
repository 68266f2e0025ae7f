"""A plan in force: masked (reversible), cut (smaller), and proven right."""

from secateur.apply.cut import replay
from secateur.apply.mask import Mask, mask
from secateur.apply.surgery import CutFailed, culprits, cut_verified

__all__ = ["CutFailed", "Mask", "culprits", "cut_verified", "mask", "replay"]
