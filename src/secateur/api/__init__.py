"""The verbs: thin compositions of the rooms."""

from secateur.api.pruning import prune, prune_
from secateur.api.steps import cut, inspect, plan
from secateur.apply.mask import mask

__all__ = ["cut", "inspect", "mask", "plan", "prune", "prune_"]
