"""Saving, loading and reading weights, without ever unpickling code.

Files for other runtimes are in `export`, which is imported when it is first used.
"""

from secateur.ship.files import load, save
from secateur.ship.weights import fit_weights, read_weights

__all__ = ["fit_weights", "load", "read_weights", "save"]
