"""Depthwise convolutions over planes, for any processor that LLVM knows.

The weights of a channel stay in registers. Several rows of outputs are made at once, one vector of
columns after the other, so that a vector that is loaded serves all of them. With a stride of two
along rows, two vectors are loaded and shuffled into even and odd columns: inputs are read where
they lie, without a split into phases. Rows end with a vector that overlaps the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.core.errors import UnsupportedModel
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.activation import activate
from secateur.runtime.kernels.bound import ARGUMENTS, CONTEXT, BoundKernel
from secateur.runtime.kernels.ir import Function

BEHIND = 32
"""Floats that may be read behind the last one that a plane's window covers."""
_MOST = 8  # rows of outputs at once
_TAPS = 11 * 11
_NAME = "depthwise"
_NUMBERS = ("in_pitch", "in_row", "out_pitch", "out_row", "wide", "each")


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution over planes (`runtime.planes`), in PyTorch's words.

    weight: float32 `[out, kh, kw]`; output plane `c` reads input plane `c // each`. pitch, row: in
    floats, of the input's planes as they are (no phases), with a border of zeros for the padding;
    the output's are `out_pitch` and `out_row`. size: of the output.
    """

    weight: np.ndarray
    pitch: int
    row: int
    out_pitch: int
    out_row: int
    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    each: int = 1
    bias: np.ndarray | None = None
    activation: str = "none"
    residual: bool = False

    @property
    def reach(self) -> tuple[int, int]:
        """Lowest and highest offset, in floats, that output position 0 reads at."""
        sizes = zip(self.weight.shape[1:], self.padding, self.dilation, strict=True)
        (top, bottom), (left, right) = ((-p, (k - 1) * d - p) for k, p, d in sizes)
        return top * self.row + left, bottom * self.row + right


class DepthwiseKernel(BoundKernel):
    """A `planes.Kernel` whose positions are whole rows: `begin` and `end` are multiples of `step`.

    Nothing is written beside the image's own columns; only where these are fewer than a vector, the
    border behind them is set to zero. Inputs are read up to `BEHIND` floats behind the window.

    rows: of outputs at once (`rows_of` gives those that are worth timing).

    Raises:
        UnsupportedModel: `supports` refuses the layer.

    Example:
        >>> layer = Depthwise(np.ones((1, 1, 3), np.float32), 48, 9, 48, 9, (1, 8), padding=(0, 1))
        >>> x, y = np.zeros(256, np.float32), np.zeros(64, np.float32)
        >>> x[16:24] = 1  # behind a border of zeros
        >>> if llvm.available():
        ...     kernel = DepthwiseKernel(layer)
        ...     kernel(x.ctypes.data + 64, y.ctypes.data, 0, 0, kernel.step, 0, 1)
        ...     assert y[:9].tolist() == [2, 3, 3, 3, 3, 3, 3, 2, 0]
    """

    block = 1

    def __init__(self, layer: Depthwise, rows: int = 4) -> None:
        target = llvm.host()
        if not supports(layer) or not 1 <= rows <= _MOST:
            raise UnsupportedModel(
                f"there is no depthwise kernel that makes {rows} rows at once of {layer.size}",
                hint=f"1 to {_MOST} rows; stride 1 or 2 along rows of a vector at least",
            )
        self.step = self.wide = layer.out_row
        out = len(layer.weight)
        bias = np.zeros(out, np.float32) if layer.bias is None else layer.bias
        weight = np.ascontiguousarray(layer.weight.reshape(out, -1), np.float32)
        numbers = (
            layer.pitch, layer.row, layer.out_pitch, layer.out_row, layer.size[1], layer.each,
        )  # fmt: skip
        text = source(layer, rows, target)
        super().__init__("llvm-depthwise", text, _NAME, (weight, bias), numbers)


def supports(layer: Depthwise) -> bool:
    """Whether there is code for a layer here: its columns are not too few, its stride 1 or 2."""
    usual = layer.stride[1] in (1, 2) and 0 < layer.weight[0].size <= _TAPS
    return usual and _lanes(layer, llvm.host()) > 0


def rows_of(layer: Depthwise) -> tuple[int, ...]:
    """How many rows at once are worth timing.

    Example:
        >>> rows_of(Depthwise(np.ones((1, 3, 3), np.float32), 99, 8, 99, 8, (7, 7)))
        (4, 7)
    """
    return (4, 2) if layer.size[0] % 7 else (4, 7)


def _lanes(layer: Depthwise, target: llvm.Target) -> int:
    """Floats of a vector: as many as fit a row; 0 where none do.

    Where vectors overlap, a residual would be added twice if it is the output's own memory.
    """
    wide, row = layer.size[1], layer.out_row
    return next(
        (
            n
            for n in (16, 8, 4)
            if n <= target.lanes and (wide < n <= row or wide >= n)
            and not (layer.residual and wide > n and wide % n)
        ),
        0,
    )  # fmt: skip


def source(layer: Depthwise, rows: int, target: llvm.Target) -> str:
    """The text of the kernel that a layer needs; layers of the same kind share it."""
    lanes = _lanes(layer, target)
    f = Function(_NAME, [CONTEXT, *ARGUMENTS], lanes=lanes, fused=target.fused)
    _Writer(f, layer, narrow=layer.size[1] < lanes).write(rows)
    return f.text()


class _Writer:
    """Writes one kernel; `numbers` are what it reads from the context, by name.

    narrow: rows are shorter than a vector.
    """

    def __init__(self, f: Function, layer: Depthwise, *, narrow: bool) -> None:
        self.f, self.layer, self.narrow = f, layer, narrow
        self.weight, self.bias = (f.read("%context", i, "ptr") for i in range(2))
        self.numbers = {name: f.read("%context", 2 + i) for i, name in enumerate(_NUMBERS)}
        self.kept = self._kept() if narrow else ""

    def write(self, rows: int) -> None:
        """Planes, then rows, several at a time."""
        f, numbers = self.f, self.numbers
        first, last = (f.integer("sdiv", f"%{n}", numbers["out_row"]) for n in ("begin", "end"))
        kh, kw = self.layer.weight.shape[1:]
        with f.loop("%first", "%last") as plane:
            many = self.layer.each > 1
            inside = f.integer("sdiv", plane.index, numbers["each"]) if many else plane.index
            x = f.at("%x", f.integer("mul", inside, numbers["in_pitch"]))
            base = f.integer("mul", plane.index, numbers["out_pitch"])
            place = f.at(self.weight, f.integer("mul", plane.index, kh * kw))
            weights = [f.broadcast(f.at(place, i)) for i in range(kh * kw)]
            bias = f.broadcast(f.at(self.bias, plane.index))
            begin = first
            for size in sorted({rows, *(n for n in (2, 1) if n < rows)}, reverse=True):
                with f.loop(begin, last, size) as row:
                    self._rows(x, base, row.index, weights, bias, size)
                begin = row.index

    def _rows(
        self, x: str, base: str, row: str, weights: Sequence[str], bias: str, many: int
    ) -> None:
        """`many` rows of outputs of one plane."""
        f, numbers, layer = self.f, self.numbers, self.layer
        top = f.integer("mul", row, layer.stride[0])
        high = (many - 1) * layer.stride[0] + (layer.weight.shape[1] - 1) * layer.dilation[0] + 1
        sources = {}
        for i in range(high):
            if self._pairs(i, many):
                line = f.integer("add", top, i - layer.padding[0])
                where = f.integer("mul", line, numbers["in_row"])
                sources[i] = f.at(x, f.integer("sub", where, layer.padding[1]))
        here = f.integer("add", base, f.integer("mul", row, numbers["out_row"]))
        targets = [here]
        for _ in range(many - 1):
            targets.append(f.integer("add", targets[-1], numbers["out_row"]))
        if self.narrow:
            self._vector(sources, targets, "0", weights, bias)
            return
        final = f.integer("sub", numbers["wide"], f.lanes)
        with f.loop(0, f.integer("add", final, 2 * f.lanes - 1), f.lanes) as column:
            self._vector(sources, targets, f.least(column.index, final), weights, bias)

    def _pairs(self, i: int, many: int) -> list[tuple[int, int]]:
        """The (row of outputs, row of the window) that read row `i` of the inputs."""
        layer = self.layer
        found = []
        for r in range(many):
            tap, rest = divmod(i - r * layer.stride[0], layer.dilation[0])
            if not rest and 0 <= tap < layer.weight.shape[1]:
                found.append((r, tap))
        return found

    def _vector(
        self,
        sources: dict[int, str],
        targets: Sequence[str],
        j: str,
        weights: Sequence[str],
        bias: str,
    ) -> None:
        """One vector of columns in each row."""
        f, layer = self.f, self.layer
        kw, many = layer.weight.shape[2], len(targets)
        sums = [bias] * many
        for i, line in sources.items():
            pairs = self._pairs(i, many)
            place = f.at(line, j if layer.stride[1] == 1 else f.integer("mul", j, 2))
            for tap, value in enumerate(self._taps(place, kw)):
                for r, down in pairs:
                    sums[r] = f.fma(weights[down * kw + tap], value, sums[r])
        for value, target in zip(sums, targets, strict=True):
            where = f.integer("add", target, j)
            value = self._in_order(value)
            if layer.residual:
                value = f.add(value, f.load(f.at("%residual", where)))
            self._store(activate(f, layer.activation, value), f.at("%y", where))

    def _taps(self, place: str, kw: int) -> list[str]:
        """What each tap of a row of the window reads."""
        f, across = self.f, self.layer.dilation[1]
        if self.layer.stride[1] == 1:
            return [f.load(f.at(place, tap * across)) for tap in range(kw)]
        loaded: dict[int, tuple[str, str]] = {}
        found = []
        for tap in range(kw):
            start, odd = divmod(tap * across, 2)
            if start not in loaded:
                here = f.at(place, 2 * start)
                loaded[start] = f.load(here), f.load(f.at(here, f.lanes))
            found.append(self._shuffled(*loaded[start], [2 * i + odd for i in self._order()]))
        return found

    def _order(self) -> list[int]:
        """The order of lanes in sums: that in which a shuffle within parts of a register has them.

        Even columns of two vectors then need one cheap instruction, and sums are put right once.
        """
        if self.layer.stride[1] == 1:
            return list(range(self.f.lanes))
        half = self.f.lanes // 2  # lanes that come from the first of the two vectors
        parts = range(0, half, 2)
        return [i + side + n for i in parts for side in (0, half) for n in (0, 1)]

    def _in_order(self, value: str) -> str:
        order = self._order()
        if order == sorted(order):
            return value
        return self._shuffled(value, value, [order.index(i) for i in range(self.f.lanes)])

    def _shuffled(self, a: str, b: str, order: Sequence[int]) -> str:
        f = self.f
        lanes = ", ".join(f"i32 {i}" for i in order)
        return f.value(f"shufflevector {f.vector} {a}, {f.vector} {b}, <{f.lanes} x i32> <{lanes}>")

    def _kept(self) -> str:
        """Ones in the lanes that are columns of the image."""
        f = self.f
        kind = f"<{f.lanes} x i32>"
        wide = f.value(f"trunc i64 {self.numbers['wide']} to i32")
        one = f.value(f"insertelement {kind} poison, i32 {wide}, i32 0")
        every = f.value(f"shufflevector {kind} {one}, {kind} poison, {kind} zeroinitializer")
        numbers = ", ".join(f"i32 {i}" for i in range(f.lanes))
        less = f.value(f"icmp slt {kind} <{numbers}>, {every}")
        return f.value(f"sext <{f.lanes} x i1> {less} to {kind}")

    def _store(self, value: str, place: str) -> None:
        if self.narrow:
            value = self.f.bits("and", value, self.kept)
        self.f.store(value, place)
