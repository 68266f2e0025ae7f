"""Runs emitted code without the processor it is for: decoded by capstone, executed in numpy.

Every access has to lie in one of the given regions of memory, and only the instructions that the
emitter uses are known; anything else ends the run. Fused multiply-adds are computed in float64 and
rounded, which may differ from the processor in the last bit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

capstone = pytest.importorskip("capstone", reason="decoding needs capstone")
x86 = capstone.x86

RETURN = 0x7FF00000  # an address that is nowhere: the run ends when it is jumped to
_GENERAL = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"]
_GENERAL += [f"r{number}" for number in range(8, 16)]
_MASK = 2**64 - 1


@dataclass
class Region:
    """Bytes at an address of the interpreted process."""

    base: int
    data: np.ndarray  # uint8
    writable: bool = True


@dataclass
class Machine:
    """Registers, vectors and memory."""

    regions: list[Region]
    general: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_GENERAL, 0))
    vectors: np.ndarray = field(default_factory=lambda: np.zeros((32, 16), np.float32))
    flags: tuple[int, int] = (0, 0)
    steps: int = 0
    seen: set[str] = field(default_factory=set)
    _decoded: dict[int, tuple] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.detail = True

    def memory(self, address: int, size: int, write: bool = False) -> np.ndarray:
        """The bytes at an address; an error where they are not all of one region."""
        for region in self.regions:
            start = address - region.base
            if start >= 0 and start + size <= len(region.data):
                assert region.writable or not write, f"write to read-only {address:#x}"
                return region.data[start : start + size]
        raise AssertionError(f"no memory of {size} bytes at {address:#x}")

    def run(self, address: int) -> None:
        """Call a function; arguments are in place already, and the stack has its return address."""
        while address != RETURN:
            self.steps += 1
            if address not in self._decoded:
                code = self.memory(address, 1)
                region = next(r for r in self.regions if r.base <= address < r.base + len(r.data))
                code = region.data[address - region.base :][:15].tobytes()
                instruction = next(self._decoder.disasm(code, address))
                self.seen.add(instruction.mnemonic)
                action = getattr(self, "_" + instruction.mnemonic, None)
                assert action is not None, f"unknown: {instruction.mnemonic} {instruction.op_str}"
                self._decoded[address] = (action, instruction, list(instruction.operands))
            action, instruction, operands = self._decoded[address]
            after = address + instruction.size
            self._next = after
            jump = action(instruction, *operands)
            address = after if jump is None else jump

    # Operands.

    def _place(self, operand) -> int:
        memory = operand.mem
        name = self._decoder.reg_name(memory.base)
        base = self._next if name == "rip" else self.general[name]
        if memory.index:
            base += memory.scale * self.general[self._decoder.reg_name(memory.index)]
        return (base + memory.disp) & _MASK

    def _get(self, operand) -> int:
        if operand.type == x86.X86_OP_IMM:
            return operand.imm & _MASK
        if operand.type == x86.X86_OP_REG:
            name = self._decoder.reg_name(operand.reg)
            if name.startswith("e"):
                return self.general["r" + name[1:]] & 0xFFFFFFFF
            return self.general[name]
        return int.from_bytes(self.memory(self._place(operand), operand.size).tobytes(), "little")

    def _set(self, operand, value: int) -> None:
        if operand.type == x86.X86_OP_REG:
            name = self._decoder.reg_name(operand.reg)
            if name.startswith("e"):
                name, value = "r" + name[1:], value & 0xFFFFFFFF
            self.general[name] = value & _MASK
        else:
            place = self.memory(self._place(operand), operand.size, write=True)
            place[:] = np.frombuffer((value & _MASK).to_bytes(8, "little"), np.uint8)[: len(place)]

    def _vector(self, operand, lanes: int) -> np.ndarray:
        if operand.type == x86.X86_OP_REG:
            return self.vectors[self._number(operand)][:lanes]
        if operand.size == 4:  # {1to16}
            return np.repeat(self.memory(self._place(operand), 4).view(np.float32), lanes)
        return self.memory(self._place(operand), 4 * lanes).view(np.float32)

    def _number(self, operand) -> int:
        return int(self._decoder.reg_name(operand.reg)[3:])

    def _lanes(self, operand) -> int:
        return {"x": 4, "y": 8, "z": 16}[self._decoder.reg_name(operand.reg)[0]]

    def _result(self, operand, value: np.ndarray) -> None:
        number = self._number(operand)
        self.vectors[number] = 0
        self.vectors[number][: len(value)] = value

    # Scalar instructions.

    def _mov(self, _, to, what) -> None:
        self._set(to, self._get(what))

    def _movabs(self, _, to, what) -> None:
        self._set(to, self._get(what))

    def _movsxd(self, _, to, what) -> None:
        value = self._get(what) & 0xFFFFFFFF
        self._set(to, value - (value >> 31 << 32))

    def _movzx(self, _, to, what) -> None:
        self._set(to, self._get(what))

    def _lea(self, _, to, what) -> None:
        self._set(to, self._place(what))

    def _add(self, _, to, what) -> None:
        value = (self._get(to) + self._get(what)) & _MASK
        self._set(to, value)
        self._compared(value, 0)

    def _sub(self, _, to, what) -> None:
        self._compared(self._get(to), self._get(what))
        self._set(to, self._get(to) - self._get(what))

    def _imul(self, _, to, what, number) -> None:
        self._set(to, self._get(what) * self._get(number))

    def _and(self, _, to, what) -> None:
        self._set(to, self._get(to) & self._get(what))

    def _xor(self, _, to, what) -> None:
        self._set(to, self._get(to) ^ self._get(what))

    def _div(self, _, by) -> None:
        assert self.general["rdx"] == 0
        self.general["rax"], self.general["rdx"] = divmod(self.general["rax"], self._get(by))

    def _cmp(self, _, left, right) -> None:
        self._compared(self._get(left), self._get(right))

    def _compared(self, *both: int) -> None:
        left, right = (struct.unpack("<q", struct.pack("<Q", value))[0] for value in both)
        self.flags = (left, right)

    def _push(self, _, what) -> None:
        self.general["rsp"] -= 8
        place = self.memory(self.general["rsp"], 8, write=True)
        place[:] = np.frombuffer(self._get(what).to_bytes(8, "little"), np.uint8)

    def _pop(self, _, to) -> None:
        self._set(to, self._top())

    def _top(self) -> int:
        value = int.from_bytes(self.memory(self.general["rsp"], 8).tobytes(), "little")
        self.general["rsp"] += 8
        return value

    def _call(self, _, to) -> int:
        assert self.general["rsp"] % 16 == 0, "the stack is not aligned at a call"
        self.general["rsp"] -= 8
        place = self.memory(self.general["rsp"], 8, write=True)
        place[:] = np.frombuffer(self._next.to_bytes(8, "little"), np.uint8)
        return self._get(to)

    def _ret(self, _) -> int:
        return self._top()

    def _jmp(self, _, to) -> int:
        return self._get(to)

    def _prefetchw(self, _, __) -> None:
        pass  # which never fails, wherever it points

    _prefetcht1 = _prefetchw

    # Vector instructions.

    def _vzeroupper(self, _) -> None:
        self.vectors[:16, 4:] = 0

    def _vmovups(self, _, to, what) -> None:
        if to.type == x86.X86_OP_MEM:
            value = self._vector(what, self._lanes(what))
            place = self.memory(self._place(to), 4 * len(value), write=True)
            place[:] = value.view(np.uint8)
        else:
            self._result(to, self._vector(what, self._lanes(to)))

    _vmovaps = _vmovups

    def _vbroadcastss(self, _, to, what) -> None:
        one = self.memory(self._place(what), 4).view(np.float32)
        self._result(to, np.repeat(one, self._lanes(to)))

    def _vbroadcastsd(self, _, to, what) -> None:
        two = self.memory(self._place(what), 8).view(np.float32)
        self._result(to, np.tile(two, self._lanes(to) // 2))

    def _vmovsldup(self, _, to, what) -> None:
        self._result(to, np.repeat(self._vector(what, self._lanes(to))[::2], 2))

    def _vmovshdup(self, _, to, what) -> None:
        self._result(to, np.repeat(self._vector(what, self._lanes(to))[1::2], 2))

    def _vfmadd231ps(self, _, to, a, b) -> None:
        lanes = self._lanes(to)
        product = self._vector(a, lanes).astype(np.float64) * self._vector(b, lanes)
        self._result(to, (self._vector(to, lanes) + product).astype(np.float32))

    def _binary(self, function: Callable, to, a, b) -> None:
        lanes = self._lanes(to)
        self._result(to, function(self._vector(a, lanes), self._vector(b, lanes)))

    def _vaddps(self, _, to, a, b) -> None:
        self._binary(np.add, to, a, b)

    def _vmaxps(self, _, to, a, b) -> None:
        self._binary(lambda u, v: np.where(u > v, u, v), to, a, b)

    def _vminps(self, _, to, a, b) -> None:
        self._binary(lambda u, v: np.where(u < v, u, v), to, a, b)

    def _bits(self, function: Callable, to, a, b) -> None:
        def floats(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            return function(u.view(np.uint32), v.view(np.uint32)).view(np.float32)

        self._binary(floats, to, a, b)

    def _vandps(self, _, to, a, b) -> None:
        self._bits(np.bitwise_and, to, a, b)

    def _vxorps(self, _, to, a, b) -> None:
        self._bits(np.bitwise_xor, to, a, b)

    _vpandd, _vpxord = _vandps, _vxorps


def _jump(holds: Callable[[int, int], bool]) -> Callable:
    def action(self: Machine, _, to) -> int | None:
        return self._get(to) if holds(*self.flags) else None

    return action


for _name, _holds in {
    "je": lambda a, b: a == b,
    "jne": lambda a, b: a != b,
    "jl": lambda a, b: a < b,
    "jge": lambda a, b: a >= b,
    "jle": lambda a, b: a <= b,
    "jg": lambda a, b: a > b,
}.items():
    setattr(Machine, "_" + _name, _jump(_holds))


def call(
    code: bytes, start: int, buffers: list[np.ndarray], arguments: list[int], windows: bool
) -> Machine:
    """Call emitted code as either system does; what a callee keeps has to be as it was.

    buffers: float32, at the addresses that their own numbers say.
    """
    base = 0x10000000
    stack = Region(0x7FFE0000, np.zeros(1 << 16, np.uint8))
    regions = [Region(base, np.frombuffer(code, np.uint8), writable=False), stack]
    regions += [Region(b.ctypes.data, b.view(np.uint8)) for b in buffers]
    machine = Machine(regions)
    rng = np.random.default_rng(0)
    for name in _GENERAL:
        machine.general[name] = int(rng.integers(2**62))
    machine.vectors[:] = rng.standard_normal((32, 16))
    registers = ["rcx", "rdx", "r8", "r9"] if windows else ["rdi", "rsi", "rdx", "rcx", "r8", "r9"]
    for name, value in zip(registers, arguments, strict=False):
        machine.general[name] = value & _MASK
    rest = arguments[len(registers) :]
    top = stack.base + (1 << 16) - 2048 - 8  # as right after a call
    home = 32 if windows else 0
    machine.general["rsp"] = top
    words = {top: RETURN} | {top + 8 + home + 8 * i: value for i, value in enumerate(rest)}
    for place, value in words.items():
        machine.memory(place, 8)[:] = np.frombuffer(value.to_bytes(8, "little"), np.uint8)
    kept = ["rbx", "rbp", "r12", "r13", "r14", "r15", *(["rdi", "rsi"] if windows else [])]
    before = [machine.general[name] for name in kept], machine.vectors[6:16, :4].copy()
    machine.run(base + start)
    assert [machine.general[name] for name in kept] == before[0]
    assert machine.general["rsp"] == top + 8
    if windows:
        np.testing.assert_array_equal(machine.vectors[6:16, :4], before[1])
    return machine
