"""What the kernels need of the machine: its features, memory that may run, and torch's threads."""

from secateur.runtime.machine.features import features, level2, near
from secateur.runtime.machine.memory import Code, Forbidden
from secateur.runtime.machine.parallel import Pool, Round, Rounds, Tasks, parallel, pieces, pool

__all__ = [
    "Code",
    "Forbidden",
    "Pool",
    "Round",
    "Rounds",
    "Tasks",
    "features",
    "level2",
    "near",
    "parallel",
    "pieces",
    "pool",
]
