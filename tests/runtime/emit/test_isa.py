"""The numbers of the instruction sets fit each other."""

from __future__ import annotations

import pytest

from secateur.runtime.emit.isa import AVX2, AVX512, FORMS, Isa
from secateur.runtime.machine.features import _BITS
from secateur.runtime.planes import ACTIVATIONS


@pytest.mark.parametrize("isa", [AVX2, AVX512], ids=lambda isa: isa.name)
def test_a_run_of_weights_is_within_reach(isa: Isa) -> None:
    assert 4 * (isa.window + isa.registers) <= 2 * isa.reach
    assert isa.needs <= set(_BITS)
    assert isa.lanes == (16 if isa.wide else 8)


def test_forms_are_activations() -> None:
    assert set(FORMS) < set(ACTIVATIONS)
