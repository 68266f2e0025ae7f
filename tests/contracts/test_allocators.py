"""Every registered allocator keeps the promises of `check_allocator`."""

from __future__ import annotations

import pytest

from secateur.allocate import allocators
from secateur.testing import check_allocator

OWN = [n for n in allocators if allocators.get(n).__module__.startswith("secateur.")]


@pytest.mark.parametrize("name", OWN)
def test_allocator(name: str) -> None:
    check_allocator(name)
