"""Every unit keeps the promises of `check_unit`."""

from __future__ import annotations

import pytest

from secateur.testing import check_unit
from secateur.units import Channel, Head, Layer, Unit

UNITS = [Channel(), Channel(multiple=2), Channel(floor=3), Head(), Head(floor=2), Layer()]


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_unit(unit: Unit) -> None:
    check_unit(unit)
