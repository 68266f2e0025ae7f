"""HOW MUCH is removed WHERE: allocators under exact budgets."""

from secateur.allocate.allocation import allocate
from secateur.allocate.allocator import Allocator, allocator, allocators, resolve
from secateur.allocate.database import Database
from secateur.allocate.evolve import Evolution, evolve
from secateur.allocate.knapsack import knapsack as _registers  # noqa: F401
from secateur.allocate.ladder import Ladder, smallest
from secateur.allocate.problem import Allocation, Nanoseconds, Problem

__all__ = [
    "Allocation",
    "Allocator",
    "Database",
    "Evolution",
    "Ladder",
    "Nanoseconds",
    "Problem",
    "allocate",
    "allocator",
    "allocators",
    "evolve",
    "resolve",
    "smallest",
]
