"""How an emitted function begins and ends: the contract's arguments, in either calling convention.

On Unix six arguments come in registers, on Windows four, where more registers have to be kept.
Arguments are put on the stack, and so are a function's own numbers, all by name.
"""

from __future__ import annotations

from secateur.runtime.machine.assembler import (
    R8,
    R9,
    R12,
    R13,
    R14,
    R15,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    Assembler,
)

ARGUMENTS = ("x", "y", "residual", "begin", "end", "first", "last")
_SAVED = (RBX, RBP, RDI, RSI, R12, R13, R14, R15)
_OWN = 8  # numbers of a function's own
_PAGE = 4096
_VECTORS = 8 * (len(ARGUMENTS) + _OWN)  # where Windows has xmm6 to xmm15 kept


class Frame:
    """A function's beginning, in `code`; `load` and `store` reach arguments and own numbers.

    own: names of at most eight more numbers of 64 bits. room: bytes that `scratch` gives.
    """

    def __init__(
        self, code: Assembler, windows: bool, own: tuple[str, ...] = (), room: int = 0
    ) -> None:
        self.code, self.windows = code, windows
        self.slots = {name: 8 * i for i, name in enumerate((*ARGUMENTS, *own))}
        self._room = _VECTORS + (160 if windows else 0)
        self.size = self._room + (room + 64 if room else 0)
        self.size += 8 - self.size % 16  # calls need the stack at a multiple of 16
        code.push(*_SAVED)
        code.add(RSP, -self.size)
        for place in range(self.size - _PAGE, 0, -_PAGE):
            code.store(RSP, place, RAX)  # Windows gives the next page when this one is touched
        self._vectors(0x11)
        registers = (RCX, RDX, R8, R9) if windows else (RDI, RSI, RDX, RCX, R8, R9)
        for register, name in zip(registers, ARGUMENTS, strict=False):
            self.store(name, register)
        above = self.size + 8 * len(_SAVED) + 8  # the return address is below it
        above += 32 if windows else 0  # and room that the caller leaves for those in registers
        for i, name in enumerate(ARGUMENTS[len(registers) :]):
            code.load(RAX, RSP, above + 8 * i)
            self.store(name, RAX)

    def load(self, register: int, name: str) -> None:
        """A number to a register."""
        self.code.load(register, RSP, self.slots[name])

    def store(self, name: str, register: int) -> None:
        """A register to a number."""
        self.code.store(RSP, self.slots[name], register)

    def scratch(self, register: int) -> None:
        """The address of the frame's room, at a multiple of 64, to a register."""
        self.code.lea(register, RSP, self._room + 63)
        self.code.down(register, 64)

    def leave(self) -> None:
        """The function's end."""
        self._vectors(0x10)
        self.code.raw(b"\xc5\xf8\x77")  # vzeroupper
        self.code.add(RSP, self.size)
        self.code.pop(*_SAVED)
        self.code.ret()

    def _vectors(self, operation: int) -> None:
        """Windows' xmm6 to xmm15: `vmovups` to (0x11) or from (0x10) the frame."""
        for number in range(6, 16) if self.windows else ():
            place = (_VECTORS + 16 * (number - 6)).to_bytes(4, "little")
            prefix = 0xF8 if number < 8 else 0x78
            self.code.raw(bytes((0xC5, prefix, operation, 0x84 | (number & 7) << 3, 0x24)) + place)
