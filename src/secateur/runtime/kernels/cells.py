"""The steps of a recurrent network in one native call: matrix kernel and cell in turns."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from secateur.core.errors import InputError
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.activation import activate, sigmoid, tanh
from secateur.runtime.kernels.ir import Function

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_NAME = "sequence"


@dataclass(frozen=True)
class Sequence:
    """What one run of steps works on: addresses, and distances in floats.

    A vector `i` of `vectors` holds neighbouring units of one sample, or neighbouring samples of one
    unit. kernel: the address of the recurrent matrix's kernel, called as `kernel(hidden, sums, 0,
    0, end, 0, last)`. hidden, cell: the state, read and written. sums: what the kernel writes,
    gates `sums_gate` apart. gates: what the input gives, at the first step; `gates_step` to the
    next step, `gates_gate` to the next gate, `gates_next` to the next vector. out: where hidden
    states go.
    """

    kernel: int
    end: int
    last: int
    hidden: int
    cell: int
    sums: int
    sums_gate: int
    gates: int
    gates_step: int
    gates_gate: int
    gates_next: int
    out: int
    out_step: int
    out_next: int
    steps: int
    vectors: int

    def array(self) -> np.ndarray:
        """The numbers as native code reads them."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.int64)


def sequence(kind: str) -> int:
    """The address of the native function that runs the steps of a kind of cell of `GATES`.

    It has the seven arguments of a kernel, and looks only at the first: the address of the numbers
    of a `Sequence`.
    """
    return llvm.load(source(kind, llvm.host()), llvm.host()).address(_NAME)


def source(kind: str, target: llvm.Target) -> str:
    """The text of the driver of a kind of cell."""
    if kind not in GATES:
        raise InputError(f"cell {kind!r} is not known", hint="one of " + ", ".join(GATES))
    unused = [f"i64 unused{i}" for i in range(6)]
    f = Function(_NAME, ["ptr numbers", *unused], lanes=target.lanes, fused=target.fused)
    pointers = {"kernel", "hidden", "cell", "sums", "gates", "out"}
    n = {
        field.name: f.read("%numbers", i, "ptr" if field.name in pointers else "i64")
        for i, field in enumerate(fields(Sequence))
    }
    with f.loop(0, n["steps"]) as step:
        f.write(
            f"call void {n['kernel']}(ptr {n['hidden']}, ptr {n['sums']}, ptr null,"
            f" i64 0, i64 {n['end']}, i64 0, i64 {n['last']})"
        )
        given = f.at(n["gates"], f.integer("mul", step.index, n["gates_step"]))
        out = f.at(n["out"], f.integer("mul", step.index, n["out_step"]))
        with f.loop(0, n["vectors"]) as vector:
            place = f.integer("mul", vector.index, f.lanes)
            before = f.integer("mul", vector.index, n["gates_next"])
            inputs, sums = [], []
            for gate in range(GATES[kind]):
                far = f.integer("add", before, f.integer("mul", n["gates_gate"], gate))
                inputs.append(f.load(f.at(given, far)))
                far = f.integer("add", place, f.integer("mul", n["sums_gate"], gate))
                sums.append(f.load(f.at(n["sums"], far)))
            hidden, cell = f.at(n["hidden"], place), f.at(n["cell"], place)
            if kind == "lstm":
                value = _lstm(f, inputs, sums, cell)
            elif kind == "gru":
                value = _gru(f, inputs, sums, hidden)
            else:
                total = f.add(inputs[0], sums[0])
                value = tanh(f, total) if kind == "rnn_tanh" else activate(f, "relu", total)
            f.store(value, hidden)
            f.store(value, f.at(out, f.integer("mul", vector.index, n["out_next"])))
    return f.text()


def _lstm(f: Function, inputs: list[str], sums: list[str], cell: str) -> str:
    """Hochreiter & Schmidhuber 1997, with forget gates; gates in PyTorch's order i, f, g, o."""
    i, forget, g, o = (f.add(a, b) for a, b in zip(inputs, sums, strict=True))
    new = f.mul(sigmoid(f, i), tanh(f, g))
    kept = f.fma(sigmoid(f, forget), f.load(cell), new)
    f.store(kept, cell)
    return f.mul(sigmoid(f, o), tanh(f, kept))


def _gru(f: Function, inputs: list[str], sums: list[str], hidden: str) -> str:
    """Cho et al. 2014; gates in PyTorch's order r, z, n, the reset behind the matrix."""
    reset = sigmoid(f, f.add(inputs[0], sums[0]))
    update = sigmoid(f, f.add(inputs[1], sums[1]))
    new = tanh(f, f.fma(reset, sums[2], inputs[2]))
    return f.fma(update, f.sub(f.load(hidden), new), new)
