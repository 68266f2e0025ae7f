"""What the processor can do and the system lets it do."""

from __future__ import annotations

import ctypes
from functools import lru_cache

from secateur.runtime.machine.assembler import WINDOWS
from secateur.runtime.machine.memory import Code, Forbidden, machine

# name: leaf of cpuid, register (eax, ebx, ecx, edx), bit
_BITS = {
    "fma": (1, 2, 12),
    "f16c": (1, 2, 29),
    "avx": (1, 2, 28),
    "avx2": (7, 1, 5),
    "avx512f": (7, 1, 16),
    "avx512dq": (7, 1, 17),
    "avx512bw": (7, 1, 30),
    "avx512vl": (7, 1, 31),
    "avx512_vnni": (7, 2, 11),
}
_YMM, _ZMM = 0b110, 0b11100110  # of XCR0: the registers that the system saves for each thread
_OSXSAVE = (1, 2, 27)

# cpuid(leaf, subleaf, uint32 out[4]); xgetbv() -> eax
_START = "53 89 c8 89 d1" if WINDOWS else "53 49 89 d0 89 f8 89 f1"
_CPUID = bytes.fromhex(_START + "0f a2 41 89 00 41 89 58 04 41 89 48 08 41 89 50 0c 5b c3")
_XGETBV = bytes.fromhex("31 c9 0f 01 d0 c3")


@lru_cache(maxsize=1)
def features() -> frozenset[str]:
    """Names of usable vector extensions, as Linux spells them; empty where nothing is known.

    Where code cannot be run (`Forbidden`) nothing is: the emitted kernels would not run either.

    Example:
        >>> features() <= {"neon", *_BITS}
        True
    """
    if machine() == "aarch64":
        return frozenset({"neon"})
    if machine() != "x86-64":
        return frozenset()
    try:
        code = Code(_CPUID.ljust(64, b"\xcc") + _XGETBV)
    except Forbidden:
        return frozenset()
    words = ctypes.POINTER(ctypes.c_uint32)
    cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, words)(code.address)
    xgetbv = ctypes.CFUNCTYPE(ctypes.c_uint32)(code.address + 64)

    def leaf(number: int) -> list[int]:
        out = (ctypes.c_uint32 * 4)()
        cpuid(number, 0, out)
        return list(out)

    leaves = {number: leaf(number) for number in (0, 1)}
    leaves[7] = leaf(7) if leaves[0][0] >= 7 else [0] * 4

    def has(place: tuple[int, int, int]) -> bool:
        number, register, bit = place
        return bool(leaves[number][register] >> bit & 1)

    saved = xgetbv() if has(_OSXSAVE) else 0
    if saved & _YMM != _YMM:
        return frozenset()
    found = {name for name, place in _BITS.items() if has(place)}
    if saved & _ZMM != _ZMM:
        found = {name for name in found if not name.startswith("avx512")}
    return frozenset(found)
