"""Executable memory is never writable as well, is given back, and its refusal is an error."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.runtime.machine.memory import Code, Forbidden, machine

pytestmark = pytest.mark.skipif(machine() != "x86-64", reason="the bytes are x86-64")
RETURN_42 = bytes.fromhex("b82a000000c3")


def access(address: int) -> str | None:
    """What /proc says about the mapping of an address: "r-xp", or None where there is none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        low, high = (int(part, 16) for part in span.split("-"))
        if low <= address < high:
            return rights
    return None


def test_code_runs_and_large_code_lies_on_a_huge_page() -> None:
    small = Code(RETURN_42)
    large = Code(bytes(3 << 20) + RETURN_42)
    run = ctypes.CFUNCTYPE(ctypes.c_int)
    assert run(small.address)() == run(large.address + (3 << 20))() == 42
    assert small.bytes == 4096
    assert large.address % (2 << 20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("size", [6, 5 << 20])
def test_code_cannot_be_written_and_is_given_back(size: int) -> None:
    code = Code(RETURN_42.ljust(size, b"\xcc"))
    address = code.address
    assert access(address) == access(address + size - 1) == "r-xp"
    del code
    gc.collect()
    assert access(address) != "r-xp"


REFUSED = """
import ctypes, sys
from secateur.runtime.machine import Forbidden, features, parallel, pool
from secateur.runtime.machine.memory import Code
Code(b"\\xc3")
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE: nothing may become executable
    sys.exit(77)
try:
    Code(b"\\xc3")
except Forbidden as error:
    print(error)
    print(sorted(features()), pool().name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the refusal is Linux's")
def test_a_system_that_refuses_executable_memory_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel cannot refuse executable memory")
    assert done.returncode == 0, done.stderr
    assert "refuses executable memory" in done.stdout
    assert "[] serial" in done.stdout
    assert issubclass(Forbidden, Exception)
