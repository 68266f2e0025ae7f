"""What the processor can do and the system lets it do, and how large its caches are."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from math import prod

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
_CACHES = (4, 0x8000001D)  # leaves that have a part for each cache: Intel, AMD
_DATA_1, _ALL_2 = 0x21, 0x43  # of level 1 and for data, of level 2 and for all
_USUAL_1, _USUAL_2 = 32 << 10, 512 << 10

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
    code = _code()
    if code is None:
        return frozenset()

    def has(place: tuple[int, int, int]) -> bool:
        number, register, bit = place
        return bool(_leaf(number)[register] >> bit & 1)

    xgetbv = ctypes.CFUNCTYPE(ctypes.c_uint32)(code.address + 64)
    saved = xgetbv() if has(_OSXSAVE) else 0
    if saved & _YMM != _YMM:
        return frozenset()
    found = {name for name, place in _BITS.items() if has(place)}
    if saved & _ZMM != _ZMM:
        found = {name for name in found if not name.startswith("avx512")}
    return frozenset(found)


@lru_cache(maxsize=1)
def level1() -> int:
    """Bytes of the level-1 cache of data; 32 KiB where the processor does not say.

    Example:
        >>> 1 << 12 <= level1() <= 1 << 20
        True
    """
    return _cache(_DATA_1, _USUAL_1)


@lru_cache(maxsize=1)
def level2() -> int:
    """Bytes of the level-2 cache; 512 KiB where the processor does not say.

    Example:
        >>> level1() < level2()
        True
    """
    return _cache(_ALL_2, _USUAL_2)


def _cache(wanted: int, usual: int) -> int:
    for number in _CACHES:
        for part in range(4):
            kind, sizes, sets, _ = _leaf(number, part)
            if kind & 0xFF == wanted:
                less_one = sizes >> 22, sizes >> 12 & 0x3FF, sizes & 0xFFF, sets
                found = prod(n + 1 for n in less_one)  # ways, parts, bytes of a line, sets
                return found if usual >> 3 <= found <= usual << 5 else usual
    return usual


def near() -> int:
    """Bytes of data that may stay close to the core: most of the level-1 cache."""
    return level1() // 8 * 7


@lru_cache(maxsize=1)
def _code() -> Code | None:
    """`cpuid`, and 64 bytes behind it `xgetbv`; None where there are none."""
    if machine() != "x86-64":
        return None
    try:
        return Code(_CPUID.ljust(64, b"\xcc") + _XGETBV)
    except Forbidden:
        return None


@lru_cache
def _leaf(number: int, part: int = 0) -> tuple[int, ...]:
    """The four numbers of a leaf's part; zeros where the processor has no such leaf."""
    code = _code()
    if code is None:
        return (0,) * 4
    words = ctypes.POINTER(ctypes.c_uint32)
    cpuid = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, words)(code.address)
    out = (ctypes.c_uint32 * 4)()
    cpuid(number & 1 << 31, 0, out)  # the last leaf of its kind
    if number > out[0]:
        return (0,) * 4
    cpuid(number, part, out)
    return tuple(out)
