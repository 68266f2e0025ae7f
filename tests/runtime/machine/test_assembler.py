"""Scalar code does what Python does."""

from __future__ import annotations

import ctypes

import pytest

from secateur.runtime.machine.assembler import (
    R8,
    R9,
    R12,
    R13,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RSI,
    RSP,
    WINDOWS,
    Assembler,
)
from secateur.runtime.machine.memory import Code, machine

pytestmark = pytest.mark.skipif(
    machine() != "x86-64" or WINDOWS, reason="runs x86-64 code with the calls of Unix"
)
LEFT, RIGHT = 5, -3


def run(code: Assembler, left: int = LEFT, right: int = RIGHT) -> int:
    code.ret()
    memory = Code(code.finish())
    two = [ctypes.c_int64, ctypes.c_int64]
    return ctypes.CFUNCTYPE(ctypes.c_int64, *two)(memory.address)(left, right)


@pytest.mark.parametrize("register", [RAX, RCX, RBX, RBP, R8, R9, R12, R13])
def test_every_kind_of_register(register: int) -> None:
    code = Assembler()
    code.push(RBX, RBP, R12, R13)
    code.lea(RSP, RSP, -16)
    code.move(register, RDI)
    code.store(RSP, 8, register)
    code.set(register, 1000)
    code.load(register, RSP, 8)
    code.plus(register, RSI)
    code.add(register, 100)
    code.minus(register, RDI)
    code.times(register, register, -7)
    code.down(register, 4)
    code.lea(register, register, 11)
    code.move(RAX, register)
    code.lea(RSP, RSP, 16)
    code.pop(RBX, RBP, R12, R13)
    assert run(code) == (RIGHT + 100) * -7 // 4 * 4 + 11


@pytest.mark.parametrize("condition", ["==", "!=", "<", ">=", "<=", ">"])
@pytest.mark.parametrize(("left", "right"), [(5, -3), (-3, 5), (4, 4)])
def test_conditions_are_signed(condition: str, left: int, right: int) -> None:
    answers = []
    for against in ("register", "number"):
        code = Assembler()
        code.set(RAX, 1)
        if against == "register":
            code.compare(RDI, RSI)
        else:
            code.compare_to(RDI, right)
        code.jump("yes", condition)
        code.set(RAX, 0)
        code.label("yes")
        answers.append(run(code, left, right))
    right_answer = int(eval(f"{left} {condition} {right}"))
    assert answers == [right_answer, right_answer]


def test_words_tables_calls_and_division() -> None:
    code = Assembler()
    code.jump("start")
    code.align(16)
    code.label("table")
    code.raw((-9).to_bytes(4, "little", signed=True))
    code.label("double")
    code.plus(RAX, RAX)
    code.ret()
    code.label("start")
    code.address(R9, "table")
    code.load_word(RAX, R9)
    code.address(R12 - 1, "double")
    code.call(R12 - 1)
    code.move(R8, RAX)
    code.move(RAX, RDI)
    code.divide(RSI)
    code.plus(RAX, R8)
    assert run(code, left=47, right=6) == -18 + 7


def test_a_label_is_given_once() -> None:
    code = Assembler()
    code.label("here")
    with pytest.raises(ValueError, match="here"):
        code.label("here")
