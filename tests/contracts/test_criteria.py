"""Every registered criterion keeps the promises of `check_criterion`."""

from __future__ import annotations

import pytest

from secateur.score import criteria
from secateur.testing import check_criterion

OWN = [n for n in criteria if criteria.get(n).__module__.startswith("secateur.")]

# Criteria by which larger weights need not mean a higher score.
NOT_MONOTONE = {
    "osscar",  # relative to the outputs' variance, which grows too
    "grasp",  # may be negative
    "fpgm", "folding", "kmeans",  # distances, which may shrink
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_criterion(name: str) -> None:
    check_criterion(name, monotone=name not in NOT_MONOTONE)
