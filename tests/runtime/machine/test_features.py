"""What the processor can do agrees with what the system says."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.runtime.machine.features import _BITS, features
from secateur.runtime.machine.memory import machine


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo")
@pytest.mark.skipif(machine() != "x86-64", reason="the flags are x86's")
def test_features_are_those_of_cpuinfo() -> None:
    text = Path("/proc/cpuinfo").read_text()
    flags = next(line for line in text.splitlines() if line.startswith("flags")).split()
    assert features() == set(_BITS) & set(flags)
    assert "avx" in features()
