"""The verbs: thin compositions of the rooms."""

from secateur.api.compiling import compile
from secateur.api.curves import frontier, sensitivity
from secateur.api.dials import dial
from secateur.api.pruning import prune, prune_
from secateur.api.shrink import shrink
from secateur.api.steps import cut, inspect, plan
from secateur.apply.mask import mask

__all__ = [
    "compile", "cut", "dial", "frontier", "inspect", "mask", "plan", "prune", "prune_",
    "sensitivity", "shrink",
]  # fmt: skip
