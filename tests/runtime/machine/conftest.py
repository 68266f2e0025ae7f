"""A native function that several tests run."""

from __future__ import annotations

import pytest

from secateur.runtime.machine.assembler import RAX, RDI, RSI, RSP, Assembler
from secateur.runtime.machine.memory import Code


@pytest.fixture(scope="module")
def add() -> Code:
    """`*a0 += a1 + a6`, the last of which lies on the stack."""
    code = Assembler()
    code.load(RAX, RDI)
    code.plus(RAX, RSI)
    code.load(RSI, RSP, 8)
    code.plus(RAX, RSI)
    code.store(RDI, 0, RAX)
    code.ret()
    return Code(code.finish())


@pytest.fixture(scope="module")
def copy() -> Code:
    """`*a0 = *a1`."""
    code = Assembler()
    code.load(RAX, RSI)
    code.store(RDI, 0, RAX)
    code.ret()
    return Code(code.finish())
