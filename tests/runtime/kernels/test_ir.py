"""What is written is what LLVM runs: loops that carry values, vectors, conditions."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.ir import Function, number


def run(f: Function, *arguments: int) -> None:
    kinds = [ctypes.c_int64] * len(arguments)
    ctypes.CFUNCTYPE(None, *kinds)(llvm.load(f.text()).address(f.name))(*arguments)


def new(name: str, *arguments: str) -> Function:
    target = llvm.host()
    return Function(name, arguments, lanes=target.lanes, fused=target.fused)


@pytest.mark.parametrize("value", [0.0, -0.0, 1 / 3, 1e-45, 3.4e38])
def test_a_constant_is_the_nearest_float32(value: float) -> None:
    f = new("store_constant", "ptr y")
    f.store(f.constant(value), "%y")
    y = np.full(16, 9, np.float32)
    run(f, y.ctypes.data)
    assert y[0] == np.float32(value) and np.signbit(y[0]) == np.signbit(value)
    assert number(value) == number(float(np.float32(value)))


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 0, 1), (3, 2, 1), (0, 5, 1), (1, 12, 4)])
def test_a_loop_takes_whole_steps_and_carries_values(start: int, stop: int, step: int) -> None:
    f = new("loop", "ptr y", "ptr at", "i64 start", "i64 stop")
    with f.loop("%start", "%stop", step, [f.constant(1)]) as loop:
        loop.after = [f.add(loop.values[0], loop.values[0])]
    f.store(loop.values[0], "%y")
    f.write(f"store i64 {loop.index}, ptr %at")
    y, at = np.zeros(16, np.float32), np.zeros(1, np.int64)
    run(f, y.ctypes.data, at.ctypes.data, start, stop)
    turns = len(range(start, stop - step + 1, step))
    assert y[0] == 2**turns
    assert at[0] == start + turns * step


def test_loops_nest_and_conditions_are_kept() -> None:
    f = new("nested", "ptr y", "i64 n")
    with (
        f.loop(0, "%n") as i,
        f.loop(0, "%n") as j,
        f.when(f.integer("icmp sle", i.index, j.index)),
    ):
        place = f.at("%y", 0)
        f.store(f.add(f.load(place), f.constant(1)), place)
    y = np.zeros(16, np.float32)
    run(f, y.ctypes.data, 5)
    assert y[0] == 15


def test_integers_of_all_widths_are_read() -> None:
    f = new("widths", "ptr x", "ptr y")
    for i, kind in enumerate(("i8", "i16", "i32", "i64")):
        f.write(f"store i64 {f.read('%x', 1, kind)}, ptr {f.at('%y', i, 'i64')}")
    f.write(f"store i64 {f.least(-3, 7)}, ptr {f.at('%y', 4, 'i64')}")
    x, y = np.arange(200, 264, dtype=np.uint8), np.zeros(5, np.int64)
    run(f, x.ctypes.data, y.ctypes.data)
    kinds = (np.uint8, np.uint16, np.int32, np.int64)
    assert y.tolist() == [*(int(x.view(kind)[1]) for kind in kinds), -3]


def test_the_larger_and_the_smaller_keep_nan() -> None:
    f = new("limits", "ptr x", "ptr y")
    x = f.load("%x")
    f.store(f.above(f.constant(0), x), "%y")
    f.store(f.below(f.constant(0), x), f.at("%y", f.lanes))
    lanes = llvm.host().lanes
    x, y = np.zeros(lanes, np.float32), np.zeros(2 * lanes, np.float32)
    x[:4] = -1, 2, np.nan, np.inf
    run(f, x.ctypes.data, y.ctypes.data)
    np.testing.assert_array_equal(y[:4], [0, 2, np.nan, np.inf])
    np.testing.assert_array_equal(y[lanes : lanes + 4], [-1, 0, np.nan, 0])


def test_a_machine_without_fused_operations_multiplies_and_adds() -> None:
    f = Function("plain", ["ptr x"], lanes=4, fused=False)
    x = f.load("%x")
    f.store(f.fma(x, x, x), "%x")
    assert "fma" not in f.text() and "fmul" in f.text()


def test_memory_may_be_asked_for_where_there_is_none() -> None:
    f = new("ahead", "ptr y", "i64 far")
    f.prefetch("%y", "%far")
    f.store(f.constant(2), "%y")
    y = np.zeros(16, np.float32)
    run(f, y.ctypes.data, 1 << 40)
    assert y[0] == 2
