"""An assembler for the few scalar x86-64 instructions that loops around kernels need."""

from __future__ import annotations

import sys

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)
WINDOWS = sys.platform == "win32"
_CONDITIONS = {"==": 0x84, "!=": 0x85, "<": 0x8C, ">=": 0x8D, "<=": 0x8E, ">": 0x8F}  # signed


class Assembler:
    """Code with labels; every operand has 64 bits, every distance 32.

    Example:
        >>> code = Assembler()
        >>> code.set(RAX, 3); code.label("again"); code.add(RAX, -1)
        >>> code.jump("again", "!="); code.ret()
        >>> code.finish().hex(" ", 1)
        '48 c7 c0 03 00 00 00 48 81 c0 ff ff ff ff 0f 85 f3 ff ff ff c3'
    """

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self._distances: list[tuple[int, str]] = []

    def finish(self) -> bytes:
        """The code, with all labels resolved; `labels` may have places behind its end."""
        for place, name in self._distances:
            self.code[place : place + 4] = _word(self.labels[name] - (place + 4))
        self._distances.clear()
        return bytes(self.code)

    def label(self, name: str) -> None:
        """Give the present place a name, once."""
        if name in self.labels:
            raise ValueError(f"label {name!r} is there already")
        self.labels[name] = len(self.code)

    def raw(self, code: bytes) -> None:
        """Put bytes as they are."""
        self.code += code

    def align(self, size: int) -> None:
        """Fill up to a multiple of `size` with breakpoints: nothing may run into it."""
        self.code += b"\xcc" * (-len(self.code) % size)

    def load(self, to: int, base: int, distance: int = 0) -> None:
        """`to = [base + distance]`."""
        self._memory(b"\x8b", to, base, distance)

    def load_word(self, to: int, base: int, distance: int = 0) -> None:
        """`to = [base + distance]`, 32 bits with their sign."""
        self._memory(b"\x63", to, base, distance)

    def load_half(self, to: int, base: int, distance: int = 0) -> None:
        """`to = [base + distance]`, 16 bits without a sign."""
        self._memory(b"\x0f\xb7", to, base, distance)

    def store(self, base: int, distance: int, what: int) -> None:
        """`[base + distance] = what`."""
        self._memory(b"\x89", what, base, distance)

    def lea(self, to: int, base: int, distance: int) -> None:
        """`to = base + distance`."""
        self._memory(b"\x8d", to, base, distance)

    def lea_eight(self, to: int, base: int, what: int) -> None:
        """`to = base + 8 * what`, of registers; `base` is neither rbp nor r13, `what` not rsp."""
        self.code += bytes((0x48 | (to >> 3) << 2 | (what >> 3) << 1 | base >> 3, 0x8D))
        self.code += bytes(((to & 7) << 3 | 4, 0xC0 | (what & 7) << 3 | base & 7))

    def address(self, to: int, label: str) -> None:
        """`to =` the address of a label."""
        self.code += bytes((0x48 | (to >> 3) << 2, 0x8D, (to & 7) << 3 | 5))
        self._distance(label)

    def move(self, to: int, what: int) -> None:
        """`to = what`, of registers."""
        self._registers(b"\x89", what, to)

    def set(self, to: int, value: int) -> None:
        """`to = value`, of 32 bits with their sign."""
        self.code += bytes((0x48 | to >> 3, 0xC7, 0xC0 | to & 7)) + _word(value)

    def add(self, to: int, value: int) -> None:
        """`to += value`, a number of 32 bits."""
        self.code += bytes((0x48 | to >> 3, 0x81, 0xC0 | to & 7)) + _word(value)

    def down(self, to: int, size: int) -> None:
        """`to` to a multiple of `size`, a power of two."""
        self.code += bytes((0x48 | to >> 3, 0x81, 0xE0 | to & 7)) + _word(-size)

    def plus(self, to: int, what: int) -> None:
        """`to += what`, of registers."""
        self._registers(b"\x01", what, to)

    def minus(self, to: int, what: int) -> None:
        """`to -= what`, of registers."""
        self._registers(b"\x29", what, to)

    def times(self, to: int, what: int, value: int) -> None:
        """`to = what * value`, a number of 32 bits."""
        self._registers(b"\x69", to, what)
        self.code += _word(value)

    def divide(self, by: int) -> None:
        """`rax, rdx = rax / by, rax % by`, without signs."""
        self.code += b"\x31\xd2"
        self.code += bytes((0x48 | by >> 3, 0xF7, 0xF0 | by & 7))

    def compare(self, left: int, right: int) -> None:
        """Compare two registers, for a `jump`."""
        self._registers(b"\x39", right, left)

    def compare_to(self, left: int, value: int) -> None:
        """Compare a register and a number of 32 bits, for a `jump`."""
        self.code += bytes((0x48 | left >> 3, 0x81, 0xF8 | left & 7)) + _word(value)

    def take(self, what: int, base: int, distance: int = 0) -> None:
        """`what, [base] = [base], [base] + what`, in one piece for all threads."""
        self.code += b"\xf0"
        self._memory(b"\x0f\xc1", what, base, distance)

    def will_read(self, base: int, distance: int) -> None:
        """Say that the line at `[base + distance]` will be read, but not at once; never fails."""
        self._memory(b"\x0f\x18", 2, base, distance)

    def will_write(self, base: int, distance: int) -> None:
        """Say that the line at `[base + distance]` will be written; never fails."""
        self._memory(b"\x0f\x0d", 1, base, distance)

    def jump(self, label: str, condition: str = "") -> None:
        """Go to a label, always or where the last comparison was so."""
        self.code += bytes((0x0F, _CONDITIONS[condition])) if condition else b"\xe9"
        self._distance(label)

    def call(self, address: int) -> None:
        """Call the address in a register."""
        self.code += bytes((0x40 | address >> 3, 0xFF, 0xD0 | address & 7))

    def push(self, *registers: int) -> None:
        """Put registers on the stack, in order."""
        for register in registers:
            self.code += bytes((0x40 | register >> 3, 0x50 | register & 7))

    def pop(self, *registers: int) -> None:
        """Take registers from the stack; the order is that of the `push`."""
        for register in reversed(registers):
            self.code += bytes((0x40 | register >> 3, 0x58 | register & 7))

    def ret(self) -> None:
        """Return."""
        self.code += b"\xc3"

    def _distance(self, label: str) -> None:
        self._distances.append((len(self.code), label))
        self.code += bytes(4)

    def _registers(self, operation: bytes, reg: int, rm: int) -> None:
        self.code += bytes((0x48 | (reg >> 3) << 2 | rm >> 3,)) + operation
        self.code.append(0xC0 | (reg & 7) << 3 | rm & 7)

    def _memory(self, operation: bytes, reg: int, base: int, distance: int) -> None:
        self.code += bytes((0x48 | (reg >> 3) << 2 | base >> 3,)) + operation
        self.code.append(0x80 | (reg & 7) << 3 | base & 7)
        if base & 7 == RSP:  # rsp and r12 need a second byte to be a base
            self.code.append(0x24)
        self.code += _word(distance)


def _word(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)
