"""Instructions are, byte for byte, those that LLVM's assembler makes of their text."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.runtime.emit import encode as e
from secateur.runtime.machine.memory import machine

pytestmark = pytest.mark.skipif(machine() != "x86-64", reason="LLVM is asked for its own machine")

TEXT = {  # in Intel's order: what is written comes first
    e.LOAD: "vmovups {reg}, {memory}",
    e.STORE: "vmovups {memory}, {reg}",
    e.BROADCAST: "vbroadcastss {reg}, dword ptr {place}",
    e.FMA: "vfmadd231ps {reg}, {src}, {rm}",
    e.FMA_MEMORY: "vfmadd231ps {reg}, {src}, {memory}",
    e.FMA_BROADCAST: "vfmadd231ps {reg}, {src}, dword ptr {place}{{1to16}}",
    e.ADD_MEMORY: "vaddps {reg}, {src}, {memory}",
    e.AND_MEMORY: "{and} {reg}, {src}, {memory}",
    e.MAX: "vmaxps {reg}, {src}, {rm}",
    e.MIN: "vminps {reg}, {src}, {rm}",
    e.XOR: "{xor} {reg}, {src}, {rm}",
    e.ADD: "vaddps {reg}, {src}, {rm}",
    e.MOVE: "vmovaps {reg}, {rm}",
    e.BROADCAST_TWO: "vbroadcastsd {reg}, qword ptr {place}",
    e.EVEN: "vmovsldup {reg}, {rm}",
    e.ODD: "vmovshdup {reg}, {rm}",
}
MISSING = {False: (e.FMA_BROADCAST,), True: (e.BROADCAST_TWO,)}  # by `wide`
NO_SOURCE = (e.LOAD, e.STORE, e.BROADCAST, e.MOVE, e.BROADCAST_TWO, e.EVEN, e.ODD)
MEMORY = (
    *(e.LOAD, e.STORE, e.BROADCAST, e.BROADCAST_TWO),
    *(e.FMA_MEMORY, e.FMA_BROADCAST, e.ADD_MEMORY, e.AND_MEMORY),
)
SWAPPED = (e.XOR, e.ADD, e.MOVE)  # LLVM exchanges registers where that saves a byte
BASES = ["rax", "rcx", "rdx", "rbx", "", "", "rsi", "rdi", "r8", "r9", "r10", "r11"]
DISTANCES = [0, 4, 32, 60, 64, 124, 127, 128, 508, 512, 8128, 8192, 100000, 2**31 - 1]


def assembled(text: str, features: str) -> bytes:
    """What LLVM makes of assembly text: the section of code of an object file."""
    binding = pytest.importorskip("llvmlite.binding", reason="LLVM's assembler is llvmlite's")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()
    target = binding.Target.from_triple("x86_64-unknown-linux-gnu")
    made = target.create_target_machine(features=features)
    lines = "\\0A".join([".intel_syntax noprefix", *text.splitlines(), ".att_syntax"])
    module = binding.parse_assembly(
        f'target triple = "x86_64-unknown-linux-gnu"\nmodule asm "{lines}"\n'
    )
    return section(made.emit_object(module), b".text")


def section(data: bytes, wanted: bytes) -> bytes:
    """A section of an ELF file of 64 bits."""
    table = int.from_bytes(data[0x28:0x30], "little")
    size, count, names = np.frombuffer(data, "<u2", 3, 0x3A)
    headers = [np.frombuffer(data, "<u8", 8, table + i * int(size)) for i in range(int(count))]
    start = int(headers[int(names)][3])
    for header in headers:
        name = start + (int(header[0]) & 0xFFFFFFFF)
        if data[name : name + len(wanted) + 1] == wanted + bytes(1):
            return data[int(header[3]) : int(header[3]) + int(header[4])]
    raise AssertionError("no such section")


@pytest.mark.parametrize("wide", [False, True], ids=["avx2", "avx512"])
def test_bytes_are_those_of_llvms_assembler(wide: bool) -> None:
    rng, n = np.random.default_rng(0), 1500
    registers = 32 if wide else 16
    rows = e.Rows(
        rng.choice([op for op in TEXT if op not in MISSING[wide]], n),
        *rng.integers(0, registers, (3, n)),
        rng.choice(DISTANCES, n) * rng.choice([1, -1], n),
    )
    lines = []
    for i in range(n):
        op = int(rows.op[i])
        if op in NO_SOURCE:
            rows.src[i] = 0
        if op in MEMORY:
            rows.rm[i] = rng.choice([b for b, text in enumerate(BASES) if text])
            base, distance = BASES[rows.rm[i]], int(rows.distance[i])
            place = f"[{base} {'-' if distance < 0 else '+'} {abs(distance)}]"
        else:
            place, rows.distance[i] = "", 0
            if not wide and op in SWAPPED:
                rows.rm[i] %= 8
        letter = "z" if wide else "y"
        lines.append(
            TEXT[op].format(
                reg=f"{letter}mm{rows.reg[i]}",
                src=f"{letter}mm{rows.src[i]}",
                rm=f"{letter}mm{rows.rm[i]}",
                memory=f"{letter}mmword ptr {place}",
                place=place,
                **{"and": "vpandd" if wide else "vandps", "xor": "vpxord" if wide else "vxorps"},
            )
        )
    code, ends = e.encode(rows, wide)
    expected = assembled("\n".join(lines), "+avx512f" if wide else "+avx2,+fma")
    starts = np.concatenate([[0], ends[:-1]])
    for line, start, end in zip(lines, starts, ends, strict=True):
        assert code[start:end].tobytes() == expected[start:end], line
    assert len(expected) == len(code)


def test_scalar_instructions_are_those_of_llvms_assembler() -> None:
    names = {
        "add weights": "add rax, 1000",
        "add x": "add rdi, 1000",
        "add y": "add rsi, 1000",
        "add residual": "add rdx, 1000",
        "add mask": "add rcx, 1000",
        "count tiles": "add r8, 1000",
        "count groups": "add r9, 1000",
        "lea weights": "lea rax, [rip + 1000]",
        "lea x": "lea rdi, [r12 + 1000]",
        "lea y": "lea rsi, [r13 + 1000]",
        "lea residual": "lea rdx, [r14 + 1000]",
        "lea mask": "lea rcx, [r15 + 1000]",
        "lea tiles": "lea r8, [r11 + 1000]",
        "lea column": "lea rbx, [rdi + 1000]",
        "will read x": "prefetcht1 [rdi + 1000]",
        "will write y": "prefetchw [rsi + 1000]",
    }
    jumps = {"jump if zero", "jump if not"}
    assert set(e.SCALAR) == set(names) | jumps
    rows = e.Rows.empty(len(names))
    for i, name in enumerate(names):
        rows.put(np.array([i]), e.SCALAR[name], distance=1000)
    code, _ = e.encode(rows, False)
    assert code.tobytes() == assembled("\n".join(names.values()), "")
    assert e.encode(rows, True)[0].tobytes() == code.tobytes()
