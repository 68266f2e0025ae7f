"""What the processor can do agrees with what the system says."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.runtime.machine.features import _BITS, features, level1, level2
from secateur.runtime.machine.memory import machine


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo")
@pytest.mark.skipif(machine() != "x86-64", reason="the flags are x86's")
def test_features_are_those_of_cpuinfo() -> None:
    text = Path("/proc/cpuinfo").read_text()
    flags = next(line for line in text.splitlines() if line.startswith("flags")).split()
    assert features() == set(_BITS) & set(flags)
    assert "avx" in features()


CACHE = Path("/sys/devices/system/cpu/cpu0/cache")


@pytest.mark.skipif(not (CACHE / "index0/size").exists(), reason="reads what Linux says of caches")
@pytest.mark.skipif(machine() != "x86-64", reason="asks an x86 processor")
def test_caches_are_as_large_as_the_system_says() -> None:
    for place in CACHE.glob("index*"):
        kind, level = ((place / name).read_text().strip() for name in ("type", "level"))
        if (kind, level) == ("Data", "1"):
            assert level1() == int((place / "size").read_text().strip().removesuffix("K")) << 10
        if (kind, level) == ("Unified", "2"):
            assert level2() == int((place / "size").read_text().strip().removesuffix("K")) << 10
