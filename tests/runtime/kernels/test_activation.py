"""Activations are right to a few roundings, over all of float32, and NaN stays NaN."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
import torch
from planes_reference import act

from secateur.runtime.kernels import activation, llvm
from secateur.runtime.kernels.ir import Function
from secateur.runtime.planes import ACTIVATIONS

EXTREME = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 1e-40, -1e-40]
POINTS = np.concatenate(
    [np.linspace(-20, 20, 40_001), np.linspace(-120, 120, 5001), np.geomspace(1e-30, 1, 500)]
)


def source(write: Callable[[Function, str], str], target: llvm.Target) -> str:
    f = Function("along", ["ptr x", "ptr y", "i64 n"], lanes=target.lanes, fused=target.fused)
    with f.loop(0, "%n", target.lanes) as i:
        f.store(write(f, f.load(f.at("%x", i.index))), f.at("%y", i.index))
    return f.text()


def apply(write: Callable[[Function, str], str], x: np.ndarray) -> np.ndarray:
    padded = np.zeros(-(-len(x) // 16) * 16, np.float32)
    padded[: len(x)] = x
    y = np.empty_like(padded)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    function = call(llvm.load(source(write, llvm.host())).address("along"))
    function(padded.ctypes.data, y.ctypes.data, len(padded))
    return y[: len(x)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_that_of_pytorch_in_float64(name: str) -> None:
    x = np.concatenate([POINTS, -POINTS[-500:]]).astype(np.float32)
    y, right = apply(lambda f, v: activation.activate(f, name, v), x), act(name, x)
    # relative, where float32 is normal; GELU where it is not much smaller than what it is made of
    good = (x > (-0.5 if name == "gelu" else -4)) & (np.abs(right) > 1e-37)
    assert (np.abs(y - right)[good] <= 2e-6 * np.abs(right)[good]).all()
    assert (np.abs(y - right) <= 3e-7 * np.abs(x) + 1e-37).all()


def test_gelu_is_as_exact_as_that_of_pytorch() -> None:
    x = np.concatenate([POINTS[POINTS != 0], -POINTS[-500:]]).astype(np.float32)
    right = act("gelu", x)
    ours = apply(lambda f, v: activation.activate(f, "gelu", v), x)
    theirs = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    worst, other = (float((np.abs(y - right) / np.abs(x)).max()) for y in (ours, theirs))
    assert worst <= max(other, 2e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extremes_are_those_of_pytorch_in_float32(name: str) -> None:
    x = np.array(EXTREME, np.float32)
    y = apply(lambda f, v: activation.activate(f, name, v), x)
    np.testing.assert_allclose(y, act(name, x).astype(np.float32), rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize(
    ("write", "right"),
    [
        (activation.sigmoid, torch.sigmoid),
        (activation.tanh, torch.tanh),
        (activation.exp, torch.exp),
    ],
)
def test_functions_of_gates(write: Callable, right: Callable) -> None:
    x = np.concatenate([EXTREME[:7], POINTS, -POINTS[-500:]]).astype(np.float32)
    y = apply(write, x)
    expected = right(torch.from_numpy(x.astype(np.float64))).numpy()
    normal = (np.abs(expected) > 1e-37) & (np.abs(expected) < 3e38)
    assert (np.abs(y[normal] - expected[normal]) <= 3e-7 * np.abs(expected[normal])).all()
    with np.errstate(over="ignore"):
        rest = expected[~normal].astype(np.float32)
    np.testing.assert_allclose(y[~normal], rest, atol=1e-37)


def test_the_exponential_of_a_softmax() -> None:
    x = np.concatenate([-POINTS[-500:], np.linspace(-86, 0, 5001), [0.0, -0.0]]).astype(np.float32)
    right = np.exp(x.astype(np.float64))
    assert (np.abs(apply(activation.falling, x) - right) <= 3e-7 * right).all()
    found = apply(activation.falling, np.array([-np.inf, -1e38, -87, np.nan], np.float32))
    np.testing.assert_array_equal(found, [0, 0, 0, np.nan])


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_other_machines_get_code_without_calls(name: str) -> None:
    text = {
        target: llvm.assembly(source(lambda f, v: activation.activate(f, name, v), target), target)
        for target in (llvm.AVX512, llvm.NEON)
    }
    assert "zmm" in text[llvm.AVX512] and "callq" not in text[llvm.AVX512]
    assert "fmla\tv" in text[llvm.NEON] and "\tbl\t" not in text[llvm.NEON]
