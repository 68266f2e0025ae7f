"""HOW MUCH is removed WHERE: allocators under exact budgets."""

from secateur.allocate.allocation import Allocation, allocate
from secateur.allocate.allocator import Allocator, allocator, allocators, resolve
from secateur.allocate.ladder import Ladder

__all__ = ["Allocation", "Allocator", "Ladder", "allocate", "allocator", "allocators", "resolve"]
