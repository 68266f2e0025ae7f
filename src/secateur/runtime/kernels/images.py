"""What images need around sparse layers: phases for strides of two, and pooling, over planes.

Phases and maxima take pairs of neighbours apart: two vectors are loaded, and shuffled into the even
columns and the odd ones. Rows whose length is no multiple of a vector end with one that overlaps
the last.
Functions have seven integers as arguments, as `machine.parallel` wants them:
`(x, y, geometry, first, last, 0, 0)` for planes `[first, last)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.ir import Function

_ARGUMENTS = (
    "ptr x", "ptr y", "ptr geometry", "i64 first", "i64 last", "i64 unused", "i64 unused2",
)  # fmt: skip
SPLIT = ("in_pitch", "in_row", "out_pitch", "out_row", "high", "wide", "across", "down")
"""The last two are floats between phases."""
MEAN = ("in_pitch", "count", "one_over")
"""The last one is a float32 in the low half of an int64."""
POOL = ("in_pitch", "in_row", "in_last", "out_pitch", "out_row", "high", "wide")


def lanes(wide: int) -> int:
    """Floats in a vector for rows of this length; 0 where they are too short."""
    most = llvm.host().lanes
    return next((n for n in (16, 8, 4) if n <= min(most, wide)), 0)


def split(wide: int, across: int, down: int) -> int:
    """The address of a function that splits planes into phases for strides of two.

    across, down: how many phases columns and rows have, 1 or 2. For every plane `c`, elements
    `2 j` of `x[c * in_pitch + 2 * i * in_row:]` go to `y[c * out_pitch + i * out_row:]`, elements
    `2 j + 1` to `across` floats behind, and those of the row after it to `down` floats behind.
    The geometry is int64, in the order of `SPLIT`; high: rows of the input; wide: columns of the
    output, half of the input's.
    """
    f = _function(wide)
    with _planes(f, SPLIT) as (x, y, numbers):
        rows = f.integer("lshr", f.integer("add", numbers["high"], 1), 1)
        with f.loop(0, rows) as row:
            first = f.integer("mul", row.index, 2)
            here = f.at(x, f.integer("mul", first, numbers["in_row"]))
            there = f.at(y, f.integer("mul", row.index, numbers["out_row"]))
            _split_row(f, here, there, numbers, across)
            if down == 2:
                second = f.integer("or", first, 1)
                with f.when(f.integer("icmp slt", second, numbers["high"])):
                    here, there = f.at(here, numbers["in_row"]), f.at(there, numbers["down"])
                    _split_row(f, here, there, numbers, across)
    return llvm.load(f.text()).address(f.name)


def _split_row(f: Function, x: str, y: str, numbers: dict[str, str], across: int) -> None:
    with _columns(f, numbers["wide"]) as j:
        even, odd = _pair(f, x, j)
        place = f.at(y, j)
        f.store(even, place)
        if across == 2:
            f.store(odd, f.at(place, numbers["across"]))


def pool(wide: int) -> int:
    """The address of a maximum over windows of 3 x 3, stride 2, padding 1, for even widths.

    The geometry is int64, in the order of `POOL`; in_last: the last row's number; wide: columns of
    the output, half of the input's. Not-a-number wins, as in PyTorch.
    """
    f = _function(wide)
    with _planes(f, POOL) as (plane, out, numbers), f.loop(0, numbers["high"]) as row:
        middle = f.integer("mul", row.index, 2)
        above = f.integer("sub", middle, 1)
        first = f.value(f"call i64 @llvm.smax.i64(i64 {above}, i64 0)")
        last = f.least(f.integer("add", middle, 1), numbers["in_last"])
        rows = [f.at(plane, f.integer("mul", r, numbers["in_row"])) for r in (first, middle, last)]
        y = f.at(out, f.integer("mul", row.index, numbers["out_row"]))
        with _columns(f, numbers["wide"]) as j:
            _window(f, rows, y, j)
    f._declared.add("declare i64 @llvm.smax.i64(i64, i64)")
    return llvm.load(f.text()).address(f.name)


def mean() -> int:
    """The address of a mean over planes: `y[c]` of the `count` floats at `x[c * in_pitch:]`.

    The geometry is int64, in the order of `MEAN`; `one_over` is what sums are multiplied with, so
    that zeros of a border may be among the floats.
    """
    f = Function("images", _ARGUMENTS, lanes=llvm.host().lanes)
    pitch, count = f.read("%geometry", 0), f.read("%geometry", 1)
    share = f.value(f"load float, ptr {f.at('%geometry', 2, 'i64')}, align 4")
    with f.loop("%first", "%last") as plane:
        x = f.at("%x", f.integer("mul", plane.index, pitch))
        with f.loop(0, count, 2 * f.lanes, [f.constant(0)] * 2) as pairs:
            here = [f.at(x, f.integer("add", pairs.index, i * f.lanes)) for i in (0, 1)]
            pairs.after = [f.add(s, f.load(p)) for s, p in zip(pairs.values, here, strict=True)]
        total = f.sum(f.add(*pairs.values))
        with f.loop(pairs.index, count, 1, [total], kind="float") as rest:
            one = f.value(f"load float, ptr {f.at(x, rest.index)}, align 4")
            rest.after = [f.value(f"fadd float {rest.values[0]}, {one}")]
        scaled = f.value(f"fmul float {rest.values[0]}, {share}")
        f.write(f"store float {scaled}, ptr {f.at('%y', plane.index)}, align 4")
    return llvm.load(f.text()).address(f.name)


def _window(f: Function, rows: list[str], y: str, j: str) -> None:
    """The maxima of one vector of outputs."""
    pairs = [_pair(f, row, j) for row in rows]
    even, odd = (_most(f, [pair[i] for pair in pairs]) for i in (0, 1))
    before = f.integer("sub", f.integer("mul", j, 2), 1)
    column = f.value(f"call i64 @llvm.smax.i64(i64 {before}, i64 0)")
    left = _most(f, [f.broadcast(f.at(row, column)) for row in rows])
    order = ", ".join(f"i32 {i}" for i in (f.lanes, *range(f.lanes - 1)))
    shifted = f.value(
        f"shufflevector {f.vector} {odd}, {f.vector} {left}, <{f.lanes} x i32> <{order}>"
    )
    f.store(_most(f, [even, odd, shifted]), f.at(y, j))


def _most(f: Function, values: list[str]) -> str:
    found = values[0]
    for value in values[1:]:
        found = f.intrinsic("maximum", found, value)
    return found


def _pair(f: Function, row: str, j: str) -> tuple[str, str]:
    """Elements `2 (j + i)` and `2 (j + i) + 1` of a row, for all lanes `i`."""
    place = f.at(row, f.integer("mul", j, 2))
    low, high = f.load(place), f.load(f.at(place, f.lanes))
    found = []
    for start in (0, 1):
        order = ", ".join(f"i32 {2 * i + start}" for i in range(f.lanes))
        found.append(
            f.value(
                f"shufflevector {f.vector} {low}, {f.vector} {high}, <{f.lanes} x i32> <{order}>"
            )
        )
    return found[0], found[1]


def _function(wide: int) -> Function:
    return Function("images", _ARGUMENTS, lanes=lanes(wide))


@contextmanager
def _planes(f: Function, names: tuple[str, ...]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """For every plane: where it is read and written, and the geometry."""
    numbers = {name: f.read("%geometry", i) for i, name in enumerate(names)}
    with f.loop("%first", "%last") as plane:
        x = f.at("%x", f.integer("mul", plane.index, numbers["in_pitch"]))
        y = f.at("%y", f.integer("mul", plane.index, numbers["out_pitch"]))
        yield x, y, numbers


@contextmanager
def _columns(f: Function, wide: str) -> Iterator[str]:
    """Where vectors begin: one after the other, the last so that it ends with the row."""
    final = f.integer("sub", wide, f.lanes)
    with f.loop(0, f.integer("add", wide, f.lanes - 1), f.lanes) as column:
        yield f.least(column.index, final)
