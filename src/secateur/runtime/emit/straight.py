"""The instructions of a kernel's segments: straight lines of multiply-adds, one for each non-zero.

A segment holds a tile of outputs in registers while it adds what one block of columns gives to it,
and loops over tiles. The first block starts from bias and residual, others from what lies in `y`;
the last one ends with activation and mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.runtime.emit import encode as e
from secateur.runtime.emit.isa import FORMS, Isa
from secateur.runtime.emit.order import Order, Tile, order
from secateur.runtime.emit.straight_driver import driver
from secateur.runtime.planes import Planes


@dataclass(frozen=True)
class Program:
    """Encoded segments: code, constants, and where each segment begins in either."""

    code: np.ndarray
    constants: np.ndarray
    entry: np.ndarray
    patches: tuple[np.ndarray, np.ndarray]  # ends of distances to constants, and where in them


def registers(tile: Tile, isa: Isa) -> int:
    """How many vector registers a tile takes."""
    sums = tile.rows * tile.vectors
    return sums + (tile.vectors + 1 if isa.wide else min(tile.rows, tile.vectors) + 1)


def emit(layer: Planes, tile: Tile, isa: Isa, mask: bytes, windows: bool) -> bytes:
    """Code and constants of a layer: the function, a table of its segments, these, and numbers."""
    ordered = order(layer, tile, isa.lanes)
    made = _Writer(layer, ordered, tile, isa).write()
    size = len(made.code) / max(1, ordered.groups)
    code = driver(
        rows=tile.rows,
        step=isa.lanes * tile.vectors,
        tiles=tile.tiles,
        groups=ordered.groups,
        together=max(1, int(tile.code / max(1.0, size))),
        masked=bool(mask),
        windows=windows,
    )
    code.label("table")
    code.raw(bytes(4 * len(made.entry)))
    code.label("table end")
    code.ret()  # which segments jump to when the last one of a run is done
    begin = len(code.code)
    constants = -(-(begin + len(made.code)) // 64) * 64
    code.labels["mask"] = constants + made.constants.nbytes
    whole = np.zeros(constants, np.uint8)
    whole[:begin] = np.frombuffer(code.finish(), np.uint8)
    whole[begin : begin + len(made.code)] = made.code
    table = code.labels["table"]
    _write(whole, table + 4 * np.arange(len(made.entry)), begin - table + made.entry)
    ends, distances = made.patches
    _write(whole, begin + ends - 4, constants + distances - begin - ends)
    return b"".join([whole.tobytes(), made.constants.tobytes(), mask])


class _Writer:
    def __init__(self, layer: Planes, order: Order, tile: Tile, isa: Isa) -> None:
        self.layer, self.order, self.tile, self.isa = layer, order, tile, isa
        self.step = 4 * isa.lanes  # bytes of a vector
        self.segments = order.blocks * order.groups
        number = np.arange(self.segments)
        self.block, self.group = number // order.groups, number % order.groups
        self.height = np.minimum(tile.rows, layer.rows - self.group * tile.rows)
        # Constants of a segment: biases in the first block, relu6's six in the last, then weights.
        self.opens, self.closes = self.block == 0, self.block == order.blocks - 1
        six = self.closes & (layer.activation == "relu6")
        self.fixed = np.where(self.opens, self.height, 0) + six
        self.nnz = np.bincount(order.segment, minlength=self.segments)
        self.constants = np.concatenate([[0], np.cumsum(self.fixed + self.nnz)])

    def write(self) -> Program:
        self._count()
        self._open()
        self._columns()
        self._close()
        code, ends = e.encode(self.rows, self.isa.wide)
        self._jumps(code, ends)
        starts = np.concatenate([[0], ends])[self.starts]
        return Program(
            code=code,
            constants=self._constants(),
            entry=starts[:-1],
            patches=(ends[self.loop], 4 * self.constants[:-1] + self.isa.reach),
        )

    def _count(self) -> None:
        """How many instructions each non-zero and each segment takes, and where they go."""
        o, v = self.order, self.tile.vectors
        shared = o.run > 1
        self.window = np.arange(len(o.segment)) - self._starts_of(self.nnz)[o.segment]
        self.window = self.window + self.fixed[o.segment]  # a weight's number in its constants
        index = np.where(o.first, self.window // self.isa.window, 0)
        heads = np.flatnonzero(o.first)
        index = np.repeat(index[heads], o.run[heads])  # all of a run are in the window of its first
        before = np.concatenate([[0], index[:-1]]) if len(index) else index
        fresh = np.concatenate([[True], o.segment[1:] != o.segment[:-1]])[: len(index)]
        self.moves = o.first & (index != np.where(fresh, 0, before))
        self.distance = 4 * (self.window - index * self.isa.window) - self.isa.reach
        self.index = index

        each = v if self.isa.wide else 1 + v
        self.near = not self.isa.wide and v > 2  # a pointer for each column makes distances short
        lines = -(-self.step * v // 64) if self.tile.ahead else 0
        line = np.where(fresh, -1, np.concatenate([[0], o.offset[:-1]])[: len(index)] // 16)
        self.asks = o.first & (o.segment % o.groups == 0) & (o.offset // 16 != line)
        self.asked = range(0, 64 * lines, 64)
        self.weights = (
            each
            + lines * self.asks
            + (o.first & self.near)
            + np.where(o.first & (shared | self.isa.wide), v, 0)
            + self.moves
        )
        body = np.bincount(o.segment, self.weights, self.segments).astype(np.int64)

        sums = self.height * v
        residual, mask = self.layer.residual, self.layer.mask is not None
        form = FORMS[self.layer.activation]
        opening = np.where(self.opens, sums * (1 + residual) + self.height * lines, sums)
        ending = sums + np.where(self.closes, sums * (form + mask) + form, 0)
        self.pointers = 3 + residual + mask
        self.head = self.pointers + 1
        tail = self.pointers + 3
        total = self.head + opening + body + ending + tail
        self.starts = np.concatenate([[0], np.cumsum(total)])
        self.loop = self.starts[:-1] + self.pointers
        self.body = self.starts[:-1] + self.head + opening
        self.ending = self.body + body
        self.tail = self.ending + ending
        self.rows = e.Rows.empty(int(self.starts[-1]))

    def _open(self) -> None:
        """Pointers, and what the sums start from."""
        at, s = self.starts[:-1].copy(), e.SCALAR
        far = 4 * self.layer.out_pitch * self.tile.rows * self.group
        heads = [("lea x", 0), ("lea y", far), ("lea tiles", 0)]
        heads += [("lea residual", far)] * self.layer.residual
        heads += [("lea mask", 0)] * (self.layer.mask is not None)
        for name, distance in heads:
            self.rows.put(at, s[name], distance=distance)
            at += 1
        self.rows.put(at, s["lea weights"])
        at += 1
        for row, v, here in self._sums():
            number, y = self._sum(row, v), self._place(row, v)
            first = here & self.opens
            self.rows.put(
                at[first], e.BROADCAST, reg=number, rm=e.WEIGHTS, distance=4 * row - self.isa.reach
            )
            self.rows.put(at[here & ~self.opens], e.LOAD, reg=number, rm=e.Y, distance=y)
            at += here
            if self.layer.residual:
                self.rows.put(
                    at[first], e.ADD_MEMORY, reg=number, src=number, rm=e.RESIDUAL, distance=y
                )
                at += first
        for row in range(self.tile.rows):
            here = self.opens & (row < self.height)
            for line in self.asked:
                y = self._place(row, 0) + self._ahead + line
                self.rows.put(at[here], e.SCALAR["will write y"], distance=y)
                at += here

    def _columns(self) -> None:
        """The multiply-adds; runs at one offset load their inputs once."""
        o, v, put = self.order, self.tile.vectors, self.rows.put
        if not len(o.segment):
            return
        spare = self.tile.rows * v
        # Where each non-zero's instructions begin: the order of segments, then of non-zeros.
        at = np.cumsum(self.weights) - self.weights
        at += (self.body - self._starts_of(self._per_segment(self.weights)))[o.segment]
        moves = at[self.moves]
        put(moves, e.SCALAR["add weights"], distance=4 * self.isa.window)
        at = at + self.moves
        x, base = 4 * o.offset, e.X
        for line in self.asked:
            further = x[self.asks] + self._ahead + line
            put(at[self.asks], e.SCALAR["will read x"], distance=further)
            at = at + self.asks
        if self.near:
            middle = 128 if v > 4 else 0
            put(at[o.first], e.SCALAR["lea column"], distance=x[o.first] + middle)
            at = at + o.first
            x, base = np.full(len(at), -middle), e.COLUMN
        sums = o.row * v
        if self.isa.wide:
            for i in range(v):
                put(at[o.first] + i, e.LOAD, spare + i, rm=e.X, distance=x[o.first] + self.step * i)
            at = at + v * o.first
            for i in range(v):
                put(
                    *(at + i, e.FMA_BROADCAST, sums + i, spare + i, e.WEIGHTS),
                    distance=self.distance,
                )
            return
        alone, shared = o.run == 1, o.run > 1
        if v > self.tile.rows:  # all weights of a run, then one vector of inputs after the other
            start = np.repeat(at[o.first], o.run[o.first])
            put(
                *(start + o.place, e.BROADCAST, spare + o.place),
                rm=e.WEIGHTS,
                distance=self.distance,
            )
            vector = spare + self.tile.rows
            for i in range(v):
                near = x + self.step * i
                put(start[alone] + 1 + i, e.FMA_MEMORY, sums[alone] + i, spare, base, near[alone])
                here = (start + o.run + i * (o.run + 1))[shared]
                opens = o.first[shared]
                put(here[opens], e.LOAD, vector, rm=base, distance=near[shared][opens])
                place = o.place[shared]
                put(here + 1 + place, e.FMA, sums[shared] + i, spare + place, vector)
            return
        loads = o.first & shared
        for i in range(v):
            put(at[loads] + i, e.LOAD, spare + i, rm=base, distance=x[loads] + self.step * i)
        at = at + v * loads
        weight = spare + v
        put(at, e.BROADCAST, weight, rm=e.WEIGHTS, distance=self.distance)
        for i in range(v):
            near = x[alone] + self.step * i
            put(at[alone] + 1 + i, e.FMA_MEMORY, sums[alone] + i, weight, base, near)
            put(at[shared] + 1 + i, e.FMA, sums[shared] + i, weight, spare + i)

    def _close(self) -> None:
        """Activation, mask, stores; then the next tile, the next segment or the end."""
        at, spare, put = self.ending.copy(), self.tile.rows * self.tile.vectors, self.rows.put
        form = FORMS[self.layer.activation]
        last = self.closes
        if form:
            put(at[last], e.XOR, spare, spare, spare)
            at += last
        if form == 2:
            six = np.where(self.opens, self.height, 0) * 4 - self.isa.reach - 4 * self._moved()
            put(at[last], e.BROADCAST, spare + 1, rm=e.WEIGHTS, distance=six[last])
            at += last
        for row, v, here in self._sums():
            number = self._sum(row, v)
            final = here & last
            if form:
                put(at[final], e.MAX, number, spare, number)
                at += final
            if form == 2:
                put(at[final], e.MIN, number, spare + 1, number)
                at += final
            if self.layer.mask is not None:
                put(at[final], e.AND_MEMORY, number, number, e.MASK, self.step * v)
                at += final
            put(at[here], e.STORE, number, rm=e.Y, distance=self._place(row, v))
            at += here
        names = ["add x", "add y"]
        names += ["add residual"] * self.layer.residual
        names += ["add mask"] * (self.layer.mask is not None)
        for name in names:
            put(at, e.SCALAR[name], distance=self.step * self.tile.vectors)
            at += 1
        for name, number in (("count tiles", -1), ("jump if not", 0), ("count groups", -1)):
            put(at, e.SCALAR[name], distance=number)
            at += 1
        put(at, e.SCALAR["jump if zero"])

    def _jumps(self, code: np.ndarray, ends: np.ndarray) -> None:
        """Distances of the loops, which are known once all lengths are."""
        back = self.starts[1:] - 3
        _write(code, ends[back] - 4, ends[self.loop - 1] - ends[back])
        leave = ends[self.starts[1:] - 1]
        _write(code, leave - 4, -leave - 1)  # the instruction before the first segment returns

    def _constants(self) -> np.ndarray:
        out = np.zeros(self.constants[-1] + 2 * self.isa.window, np.float32)
        if self.layer.bias is not None:
            for row in range(self.tile.rows):
                here = np.flatnonzero(self.opens & (row < self.height))
                out[self.constants[here] + row] = self.layer.bias[here * self.tile.rows + row]
        if self.layer.activation == "relu6":
            out[(self.constants[:-1] + self.fixed - 1)[self.closes]] = 6
        out[self.constants[self.order.segment] + self.window] = self.order.value
        return out

    def _sums(self) -> Any:
        """Rows, vectors, and the segments that have them, as the sums are opened and closed."""
        for row in range(self.tile.rows):
            for v in range(self.tile.vectors):
                yield row, v, row < self.height

    def _sum(self, row: int, v: int) -> int:
        return row * self.tile.vectors + v

    def _place(self, row: int, v: int) -> int:
        return 4 * self.layer.out_pitch * row + self.step * v

    @property
    def _ahead(self) -> int:
        """Bytes from a tile of positions to its like in the next block of them."""
        return self.step * self.tile.vectors * self.tile.tiles

    def _moved(self) -> np.ndarray:
        """How many weights the pointer was moved on by in each segment."""
        return self.isa.window * self._per_segment(self.moves)

    def _per_segment(self, numbers: np.ndarray) -> np.ndarray:
        return np.bincount(self.order.segment, numbers, self.segments).astype(np.int64)

    @staticmethod
    def _starts_of(counts: np.ndarray) -> np.ndarray:
        return np.cumsum(counts) - counts


def _write(code: np.ndarray, at: np.ndarray, numbers: np.ndarray) -> None:
    """Numbers of 32 bits to places in the code."""
    code[at[:, None] + np.arange(4)] = numbers.astype("<i4")[:, None].view(np.uint8)
