"""A small writer of LLVM's text: values, loops that carry values, vectors of floats."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

FLOAT = "float"
INT = "i64"


def number(value: float) -> str:
    """A float32 constant as LLVM writes it: the bits of the double that equals it.

    Example:
        >>> number(0.5)
        '0x3FE0000000000000'
    """
    single = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', single))[0]:016X}"


def declared(argument: str) -> str:
    """An argument as a definition has it.

    Example:
        >>> declared("ptr nest context")
        'ptr nest %context'
    """
    kind, name = argument.rsplit(" ", 1)
    return f"{kind} %{name}"


@dataclass
class Loop:
    """One loop being written: `index`, the values that it carries, and what they become."""

    index: str
    values: list[str]
    after: list[str] = field(default_factory=list)


class Function:
    """The body of one `void` function, written from top to bottom; values are SSA names.

    lanes: floats in a vector. fused: whether the machine multiplies and adds in one instruction.

    Example:
        >>> f = Function("double_it", ["ptr x"], lanes=4)
        >>> f.store(f.add(f.load("%x"), f.load("%x")), "%x")
        >>> print(f.text())
        define void @double_it(ptr %x) {
        entry:
          %v1 = load <4 x float>, ptr %x, align 4
          %v2 = load <4 x float>, ptr %x, align 4
          %v3 = fadd <4 x float> %v1, %v2
          store <4 x float> %v3, ptr %x, align 4
          ret void
        }
    """

    def __init__(
        self, name: str, arguments: Sequence[str], *, lanes: int, fused: bool = True
    ) -> None:
        self.name = name
        self.lanes = lanes
        self.fused = fused
        self.vector = f"<{lanes} x float>"
        self._arguments = [declared(argument) for argument in arguments]
        self._lines = ["entry:"]
        self._block = "entry"
        self._count = 0
        self._declared: set[str] = set()

    def value(self, text: str) -> str:
        """Write an instruction that has a value; its name."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {text}")
        return name

    def write(self, text: str) -> None:
        """Write an instruction without a value."""
        self._lines.append(f"  {text}")

    def block(self) -> str:
        """A new label."""
        self._count += 1
        return f"b{self._count}"

    def begin(self, label: str) -> None:
        """What follows is in the block of a label."""
        self._lines.append(f"{label}:")
        self._block = label

    # Integers and addresses

    def integer(self, operation: str, a: str | int, b: str | int, kind: str = INT) -> str:
        """`add`, `sub`, `mul`, `icmp slt`, ... of two integers."""
        return self.value(f"{operation} {kind} {a}, {b}")

    def least(self, a: str | int, b: str | int) -> str:
        """The smaller of two integers."""
        return self.value(f"select i1 {self.integer('icmp slt', a, b)}, i64 {a}, i64 {b}")

    def at(self, pointer: str, index: str | int, kind: str = FLOAT) -> str:
        """The address of an element."""
        return self.value(f"getelementptr inbounds {kind}, ptr {pointer}, i64 {index}")

    def read(self, pointer: str, index: str | int = 0, kind: str = INT) -> str:
        """An integer or an address from memory; integers that are narrower become i64."""
        place = pointer if index == 0 else self.at(pointer, index, kind)
        found = self.value(f"load {kind}, ptr {place}")
        if kind in ("i8", "i16"):
            return self.value(f"zext {kind} {found} to i64")
        return self.value(f"sext i32 {found} to i64") if kind == "i32" else found

    def prefetch(self, pointer: str, index: str | int, kind: str = FLOAT) -> None:
        """Ask for an element that will be changed; one that is not there does no harm."""
        self._declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        place = self.value(f"getelementptr {kind}, ptr {pointer}, i64 {index}")
        self.write(f"call void @llvm.prefetch.p0(ptr {place}, i32 1, i32 3, i32 1)")

    # Floats: every one is a vector of `lanes`

    def constant(self, value: float) -> str:
        """A vector of equal numbers."""
        return "<" + ", ".join([f"float {number(value)}"] * self.lanes) + ">"

    def integers(self, value: int) -> str:
        """A vector of equal 32-bit integers."""
        return "<" + ", ".join([f"i32 {value}"] * self.lanes) + ">"

    def load(self, pointer: str) -> str:
        """A vector from memory."""
        return self.value(f"load {self.vector}, ptr {pointer}, align 4")

    def store(self, value: str, pointer: str) -> None:
        """A vector to memory."""
        self.write(f"store {self.vector} {value}, ptr {pointer}, align 4")

    def broadcast(self, pointer: str) -> str:
        """One number from memory in all lanes."""
        return self.splat(self.value(f"load float, ptr {pointer}, align 4"))

    def splat(self, scalar: str) -> str:
        """One number in all lanes."""
        one = self.value(f"insertelement {self.vector} poison, float {scalar}, i32 0")
        return self.value(
            f"shufflevector {self.vector} {one}, {self.vector} poison,"
            f" <{self.lanes} x i32> zeroinitializer"
        )

    def add(self, a: str, b: str) -> str:
        """The sum of two vectors."""
        return self.value(f"fadd {self.vector} {a}, {b}")

    def sub(self, a: str, b: str) -> str:
        """The difference of two vectors."""
        return self.value(f"fsub {self.vector} {a}, {b}")

    def mul(self, a: str, b: str) -> str:
        """The product of two vectors."""
        return self.value(f"fmul {self.vector} {a}, {b}")

    def div(self, a: str, b: str) -> str:
        """The quotient of two vectors."""
        return self.value(f"fdiv {self.vector} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        """Product of `a` and `b` plus `c`, rounded once where the machine can."""
        if not self.fused:
            return self.add(self.mul(a, b), c)
        return self.intrinsic("fma", a, b, c)

    def sum(self, value: str, start: str = "") -> str:
        """The sum of a vector's numbers, and of a number to start from: one float."""
        total = start
        for lane in range(self.lanes):
            one = self.value(f"extractelement {self.vector} {value}, i32 {lane}")
            total = self.value(f"fadd float {total}, {one}") if total else one
        return total

    def intrinsic(self, name: str, *values: str) -> str:
        """An LLVM intrinsic on vectors, such as `fabs`."""
        full = f"@llvm.{name}.v{self.lanes}f32"
        self._declared.add(
            f"declare {self.vector} {full}({', '.join([self.vector] * len(values))})"
        )
        arguments = ", ".join(f"{self.vector} {value}" for value in values)
        return self.value(f"call {self.vector} {full}({arguments})")

    def choose(self, compare: str, a: str, b: str, yes: str, no: str) -> str:
        """`yes` in the lanes where `a compare b` (`olt`, `ogt`, ...), else `no`."""
        where = self.value(f"fcmp {compare} {self.vector} {a}, {b}")
        return self.value(
            f"select <{self.lanes} x i1> {where}, {self.vector} {yes}, {self.vector} {no}"
        )

    def above(self, floor: str, x: str) -> str:
        """max(x, floor); NaN where x is."""
        return self.choose("ogt", floor, x, floor, x)

    def below(self, ceiling: str, x: str) -> str:
        """min(x, ceiling); NaN where x is."""
        return self.choose("olt", ceiling, x, ceiling, x)

    def bits(self, operation: str, a: str, b: str) -> str:
        """A bitwise or integer operation on two vectors of floats, `b` a vector of i32."""
        integers = f"<{self.lanes} x i32>"
        cast = self.value(f"bitcast {self.vector} {a} to {integers}")
        done = self.value(f"{operation} {integers} {cast}, {b}")
        return self.value(f"bitcast {integers} {done} to {self.vector}")

    def picked(self, vectors: Sequence[str], indices: str) -> str:
        """Numbers of 1, 2 or 4 vectors, by as many bytes as there are lanes, at an address.

        For x86-64 with AVX2 or AVX-512 alone (`llvm.Target.picks`).
        """
        kind = f"<{self.lanes} x i32>"
        small = self.value(f"load <{self.lanes} x i8>, ptr {indices}, align 1")
        where = self.value(f"zext <{self.lanes} x i8> {small} to {kind}")
        wide = self.lanes == 16
        if wide and len(vectors) > 1:
            found = [
                self._permuted("avx512.vpermi2var.ps.512", a, where, b)
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        else:
            found = [self.permuted(vector, where) for vector in vectors]
        bit = (self.lanes * len(vectors) // len(found)).bit_length() - 1
        while len(found) > 1:  # the next bit of an index says which of two it is
            top = self.value(f"shl {kind} {where}, {self.integers(31 - bit)}")
            second = self.value(f"icmp slt {kind} {top}, zeroinitializer")
            found = [
                self.value(
                    f"select <{self.lanes} x i1> {second}, {self.vector} {b}, {self.vector} {a}"
                )
                for a, b in zip(found[::2], found[1::2], strict=True)
            ]
            bit += 1
        return found[0]

    def permuted(self, vector: str, where: str) -> str:
        """Numbers of a vector, by the lowest bits of a vector of integers; where `picked` works."""
        name = "avx512.permvar.sf.512" if self.lanes == 16 else "avx2.permps"
        return self._permuted(name, vector, where)

    def _permuted(self, name: str, vector: str, where: str, other: str = "") -> str:
        given = [(self.vector, vector), (f"<{self.lanes} x i32>", where)]
        given += [(self.vector, other)] if other else []
        types, values = ", ".join(t for t, _ in given), ", ".join(f"{t} {v}" for t, v in given)
        self._declared.add(f"declare {self.vector} @llvm.x86.{name}({types})")
        return self.value(f"call {self.vector} @llvm.x86.{name}({values})")

    # Control

    @contextmanager
    def loop(
        self,
        start: str | int,
        stop: str | int,
        step: int = 1,
        carry: Sequence[str] = (),
        kind: str = "",
    ) -> Iterator[Loop]:
        """`for index in range(start, stop, step)`, only whole steps: `index + step <= stop`.

        carry: values at the start; set `.after` of the loop to what they are after one turn. When
        the block ends, `.values` are those behind the loop, and `.index` is where it stopped.
        """
        kind = kind or self.vector
        body, end = self.block(), self.block()
        last = stop if step == 1 else self.integer("sub", stop, step - 1)
        before = self._block
        some = self.integer("icmp slt", start, last)
        self.write(f"br i1 {some}, label %{body}, label %{end}")
        self.begin(body)
        place = len(self._lines)
        names = [self._name() for _ in range(len(carry) + 1)]
        loop = Loop(names[0], names[1:], list(names[1:]))
        yield loop
        following = self.integer("add nsw", loop.index, step)
        more = self.integer("icmp slt", following, last)
        latch = self._block
        self.write(f"br i1 {more}, label %{body}, label %{end}")
        kinds = [INT] + [kind] * len(carry)
        starts, nexts = [start, *carry], [following, *loop.after]
        self._lines[place:place] = [
            f"  {name} = phi {k} [ {a}, %{before} ], [ {b}, %{latch} ]"
            for name, k, a, b in zip(names, kinds, starts, nexts, strict=True)
        ]
        self.begin(end)
        loop.index, *loop.values = [
            self.value(f"phi {k} [ {a}, %{before} ], [ {b}, %{latch} ]")
            for k, a, b in zip(kinds, starts, nexts, strict=True)
        ]

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What is done only where an i1 is true; no value leaves it."""
        body, end = self.block(), self.block()
        self.write(f"br i1 {condition}, label %{body}, label %{end}")
        self.begin(body)
        yield
        self.write(f"br label %{end}")
        self.begin(end)

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def text(self) -> str:
        """The function, with the declarations that it needs."""
        head = f"define void @{self.name}({', '.join(self._arguments)}) {{"
        return "\n".join([*sorted(self._declared), head, *self._lines, "  ret void", "}"])
