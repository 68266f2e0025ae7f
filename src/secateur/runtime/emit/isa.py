"""The instruction sets that code is emitted for."""

from __future__ import annotations

from dataclasses import dataclass

FORMS = {"none": 0, "relu": 1, "relu6": 2}  # activations, and how many instructions they take


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    wide: instructions are EVEX, not VEX. lanes: floats in a vector. registers: of vectors. reach:
    bytes that a one-byte distance reaches to each side, of floats; window: floats that are reached,
    less as many as may share one offset. needs: features of the processor.
    """

    name: str
    wide: bool
    lanes: int
    registers: int
    reach: int
    window: int
    needs: frozenset[str]


AVX2 = Isa("avx2", False, 8, 16, 128, 48, frozenset({"avx2", "fma"}))
AVX512 = Isa("avx512", True, 16, 32, 512, 224, frozenset({"avx512f"}))
