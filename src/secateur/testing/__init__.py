"""Contract tests for what you add to Secateur: rules, criteria, units, allocators and
schedules.

Each check raises an AssertionError that says what was given and what went wrong; all are thorough
rather than fast, meant for a test suite.
"""

from secateur.testing.criteria import check_criterion
from secateur.testing.places import check_allocator, check_unit
from secateur.testing.rules import check_rule
from secateur.testing.schedules import check_schedule

__all__ = ["check_allocator", "check_criterion", "check_rule", "check_schedule", "check_unit"]
