"""Sparse matrix times vector: `y = act(W x + b + residual)`, each lane of a vector a row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from secateur.core.errors import InputError
from secateur.runtime.formats import WORD, Packed
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.activation import activate
from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function

_NAME = "matvec"
_UNROLLED = 8  # steps of a bank that are written out


class MatVec(BoundKernel):
    """A packed matrix compiled for this machine; the signature is that of `planes.Kernel`.

    A position is a sample: sample `s` reads `x[s * columns]` and writes `y[s * rows]`. `first` and
    `last` count lanes in the matrix's own order of rows: multiples of `block`, up to `lanes`;
    `ranges` splits them evenly by work.

    Example:
        >>> from secateur.runtime.formats import sliced
        >>> x, y = np.array([1, 2], np.float32), np.zeros(2, np.float32)
        >>> if llvm.available():
        ...     kernel = MatVec(sliced(np.array([[0, 3], [0, 0]], np.float32)))
        ...     kernel(x.ctypes.data, y.ctypes.data, 0, 0, 1, 0, kernel.lanes)
        ...     assert y.tolist() == [6, 0]
    """

    step = wide = 1

    def __init__(
        self,
        packed: Packed,
        bias: np.ndarray | None = None,
        activation: str = "none",
        residual: bool = False,
    ) -> None:
        rows = packed.shape[0]
        if bias is not None and len(bias) != rows:
            raise InputError(f"there are {len(bias)} biases for {rows} rows")
        self.packed = packed
        self.block = packed.lanes
        self.lanes = len(packed.order)
        kept = np.zeros(rows, np.float32) if bias is None else bias.astype(np.float32)
        ordered = bool((packed.order[:rows] == np.arange(rows)).all())
        whole = rows if ordered else 0  # rows before this one are stored as vectors
        arrays = [packed.values, packed.indices, packed.starts, packed.order, kept[packed.order]]
        numbers = (*packed.shape, whole, packed.bank, packed.each)
        if packed.rest:
            arrays += [packed.rest.values, packed.rest.indices, packed.rest.starts]
        text = source(packed, activation, residual, llvm.host())
        super().__init__(f"llvm-{packed.kind}", text, _NAME, arrays, numbers)

    def ranges(self, parts: int) -> list[tuple[int, int]]:
        """At most `parts` ranges `(first, last)` with equal numbers of steps."""
        starts, block = self.packed.starts, self.block
        if self.packed.rest:
            starts = starts + self.packed.rest.starts
        work = starts + np.arange(len(starts))  # a group without steps takes time as well
        ends = np.searchsorted(work, work[-1] * np.arange(1, parts + 1) / parts)
        edges = np.unique(np.concatenate([[0], ends]))
        return [(int(a) * block, int(b) * block) for a, b in pairwise(edges)]


def source(packed: Packed, activation: str, residual: bool, target: llvm.Target) -> str:
    """The text of the kernel for a format; matrices of one format share it."""
    lanes = packed.lanes
    width = min(lanes, target.lanes)
    if lanes % width:
        raise InputError(f"groups of {lanes} rows do not fit vectors of {width}")
    if packed.kind == "windowed" and packed.bank != target.window:
        raise InputError(f"this machine does not look up inputs in windows of {packed.bank}")
    f = Function(_NAME, [CONTEXT, *ARGUMENTS], lanes=width, fused=target.fused)
    _Writer(f, packed, activation, residual, _near(packed, width, target)).write()
    return f.text()


def _near(packed: Packed, width: int, target: llvm.Target) -> int:
    """Registers that hold a whole bank of inputs, from which instructions pick; 0: they do not."""
    whole = packed.bank and packed.bank % width == 0 and packed.shape[1] % packed.bank == 0
    if not whole or width != target.lanes or not target.picks:
        return 0
    many = packed.bank // width
    # AVX-512 picks from two registers at once; four single ones take longer than single loads
    return many if many in ((1, 2, 4) if width == 16 else (1, 2)) else 0


class _Writer:
    """Writes one kernel; groups are `vectors` vectors of the machine's width."""

    def __init__(
        self, f: Function, packed: Packed, activation: str, residual: bool, near: int
    ) -> None:
        self.f, self.near = f, near
        self.kind, self.group, self.each = packed.kind, packed.lanes, packed.each
        self.vectors = packed.lanes // f.lanes
        self.activation, self.residual = activation, residual
        self.half = packed.values.dtype == np.uint16
        single = (packed.rest or packed).indices.dtype.name
        self.index = {"uint8": "i8", "uint16": "i16", "int32": "i32"}[single]
        many = 8 if packed.rest else 5
        self.values, self.indices, self.starts, self.order, self.bias, *self.rest = (
            f.read("%context", i, "ptr") for i in range(many)
        )
        self.rows, self.columns, self.whole, self.bank, self.steps = (
            f.read("%context", i) for i in range(many, many + 5)
        )

    def write(self) -> None:
        """All groups of the range, for every sample."""
        f = self.f
        with f.loop("%begin", "%end") as sample:
            x = f.at("%x", f.integer("mul", sample.index, self.columns))
            shift = f.integer("mul", sample.index, self.rows)
            y, residual = f.at("%y", shift), f.at("%residual", shift)
            with f.loop("%first", "%last", self.group) as place:
                group = f.integer("sdiv exact", place.index, self.group)
                span = self._span(self.starts, group)
                sums = self._start(place.index, residual)
                if self.kind == "banked":
                    sums = self._banks(x, *span, sums)
                elif self.kind == "blocks":
                    sums = self._blocks(x, *span, sums)
                elif self.kind == "windowed":
                    sums = self._windows(x, *span, sums)
                    values, indices, starts = self.rest
                    sums = self._single(x, values, indices, self._span(starts, group), sums)
                else:
                    sums = self._single(x, self.values, self.indices, span, sums)
                sums = [activate(f, self.activation, value) for value in sums]
                self._finish(place.index, y, sums)

    def _start(self, place: str, residual: str) -> list[str]:
        """Bias and residual of a group's rows."""
        f = self.f
        sums = [f.load(f.at(self.bias, f.integer("add", place, self._at(i)))) for i in self._each()]
        if not self.residual:
            return sums
        rows = [f.integer("add", place, self._at(i)) for i in self._each()]
        return [
            f.add(value, self._gather(residual, self.order, row, "i32"))
            for value, row in zip(sums, rows, strict=True)
        ]

    def _each(self) -> range:
        return range(self.vectors)

    def _at(self, vector: int) -> int:
        return vector * self.f.lanes

    def _load(self, values: str, first: str) -> str:
        """A vector of values; bf16 is the upper half of a float32."""
        f = self.f
        if not self.half:
            return f.load(f.at(values, first))
        small, wide = f"<{f.lanes} x i16>", f"<{f.lanes} x i32>"
        bits = f.value(f"load {small}, ptr {f.at(values, first, 'i16')}, align 2")
        bits = f.value(f"zext {small} {bits} to {wide}")
        bits = f.value(f"shl {wide} {bits}, {f.integers(16)}")
        return f.value(f"bitcast {wide} {bits} to {f.vector}")

    def _gather(self, x: str, indices: str, first: str, kind: str) -> str:
        """One number for each lane, from where the indices at `first` say.

        Indices come as words and are taken apart, numbers one by one: on the machines tried this is
        faster than single loads of indices, and much faster than the machine's own gather.
        """
        f = self.f
        bits = int(kind[1:])
        word = min(64, bits * f.lanes)
        vector, words = "poison", ""
        for lane in range(f.lanes):
            if lane * bits % word == 0:
                place = f.at(indices, f.integer("add", first, lane), kind)
                words = f.value(f"load i{word}, ptr {place}, align {bits // 8}")
                words = words if word == 64 else f.value(f"zext i{word} {words} to i64")
            index = f.integer("lshr", words, lane * bits % word)
            index = f.integer("and", index, (1 << bits) - 1)
            found = f.value(f"load float, ptr {f.at(x, index)}, align 4")
            vector = f.value(f"insertelement {f.vector} {vector}, float {found}, i32 {lane}")
        return vector

    def _places(self, step: str) -> list[str]:
        """Where the numbers of a step are, for each vector of a group."""
        first = self.f.integer("mul", step, self.group)
        return [self.f.integer("add", first, self._at(i)) for i in self._each()]

    def _span(self, starts: str, group: str) -> tuple[str, str]:
        """Where the steps of a group begin and end."""
        f = self.f
        return f.read(starts, group), f.read(starts, f.integer("add", group, 1))

    def _single(
        self, x: str, values: str, indices: str, span: tuple[str, str], sums: list[str]
    ) -> list[str]:
        """Steps with single loads."""
        f = self.f
        with f.loop(*span, 1, sums) as step:
            step.after = [
                f.fma(self._load(values, at), self._gather(x, indices, at, self.index), value)
                for at, value in zip(self._places(step.index), step.values, strict=True)
            ]
        return step.values

    def _windows(self, x: str, start: str, stop: str, sums: list[str]) -> list[str]:
        """Windows in registers, of which each step takes one number for each row."""
        f, turn = self.f, WORD * self.each  # steps of as many windows as a word has places
        kind, bits = f"<{f.lanes} x i32>", f.lanes.bit_length() - 1
        with f.loop(start, stop, turn, sums) as part:
            number = f.integer("sdiv exact", f.integer("sub", part.index, start), self.each)
            base = f.at(x, f.integer("mul", number, f.lanes))
            part.after, words = part.values, list[str]()
            for i in range(turn):
                window = f.load(f.at(base, i // self.each * f.lanes))
                if i % WORD == 0:
                    word = f.integer("sdiv exact", f.integer("add", part.index, i), WORD)
                    words = [
                        f.value(f"load {kind}, ptr {f.at(self.indices, at, 'i32')}, align 4")
                        for at in self._places(word)
                    ]
                shift = f.integers(i % WORD * bits)
                places = [f.value(f"lshr {kind} {word}, {shift}") for word in words]
                part.after = [
                    f.fma(self._load(self.values, at), f.permuted(window, place), value)
                    for at, place, value in zip(
                        self._places(f.integer("add", part.index, i)), places, part.after,
                        strict=True,
                    )
                ]  # fmt: skip
        return part.values

    def _banks(self, x: str, start: str, stop: str, sums: list[str]) -> list[str]:
        """Banks one after the other; the steps of one are written out where they are few."""
        f = self.f
        width = next(n for n in range(_UNROLLED, 0, -1) if self.each % n == 0)
        total = f.integer("sub", stop, start)
        with f.loop(0, f.integer("sdiv", total, self.each), 1, sums) as bank:
            base = f.at(x, f.integer("mul", bank.index, self.bank))
            begin = f.integer("add", start, f.integer("mul", bank.index, self.each))
            end = f.integer("add", begin, self.each)
            near = [f.load(f.at(base, i * f.lanes)) for i in range(self.near)]
            with f.loop(begin, end, width, bank.values) as step:
                step.after = step.values
                for i in range(width):
                    places = self._places(f.integer("add", step.index, i))
                    step.after = [
                        f.fma(self._load(self.values, at), self._within(base, at, near), value)
                        for at, value in zip(places, step.after, strict=True)
                    ]
            bank.after = step.values
        return bank.values

    def _within(self, bank: str, place: str, near: Sequence[str]) -> str:
        """Numbers of a bank; near: the bank, if it is in registers."""
        if near:
            return self.f.picked(near, self.f.at(self.indices, place, "i8"))
        return self._gather(bank, self.indices, place, self.index)

    def _blocks(self, x: str, start: str, stop: str, sums: list[str]) -> list[str]:
        """One column of a block at a time, several into sums of their own."""
        f, size = self.f, self.vectors
        ways = max(1, 8 // size)
        zero = f.constant(0)
        with f.loop(start, stop, ways, [*sums, *[zero] * (size * (ways - 1))]) as many:
            many.after = []
            for way in range(ways):
                part = many.values[way * size : (way + 1) * size]
                many.after += self._column(x, f.integer("add", many.index, way), part)
        values = many.values[:size]
        for way in range(1, ways):
            part = many.values[way * size : (way + 1) * size]
            values = [f.add(a, b) for a, b in zip(values, part, strict=True)]
        with f.loop(many.index, stop, 1, values) as one:
            one.after = self._column(x, one.index, one.values)
        return one.values

    def _column(self, x: str, step: str, sums: list[str]) -> list[str]:
        f = self.f
        value = f.broadcast(f.at(x, f.read(self.indices, step, self.index)))
        return [
            f.fma(value, self._load(self.values, place), total)
            for place, total in zip(self._places(step), sums, strict=True)
        ]

    def _finish(self, place: str, y: str, sums: list[str]) -> None:
        """Store: as vectors where the rows are neighbours and whole, else one by one."""
        f = self.f
        end = f.integer("add", place, self.group)
        together = f.integer("icmp sle", end, self.whole)
        with f.when(together):
            for i, value in enumerate(sums):
                f.store(value, f.at(y, f.integer("add", place, self._at(i))))
        with f.when(f.value(f"xor i1 {together}, true")):
            for i, value in enumerate(sums):
                for lane in range(f.lanes):
                    row = f.read(self.order, f.integer("add", place, self._at(i) + lane), "i32")
                    one = f.value(f"extractelement {f.vector} {value}, i32 {lane}")
                    f.write(f"store float {one}, ptr {f.at(y, row)}, align 4")
