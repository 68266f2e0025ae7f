"""The native driver of steps calls the kernel it is given, and the cells are those of PyTorch."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from guarded import guarded

from secateur.core.errors import InputError
from secateur.runtime.formats import sliced
from secateur.runtime.kernels import llvm
from secateur.runtime.kernels.cells import GATES, Sequence, sequence, source
from secateur.runtime.kernels.matvec import MatVec

CELLS = {"lstm": torch.lstm_cell, "gru": torch.gru_cell, "rnn_tanh": torch.rnn_tanh_cell}


def run(kind: str, what: Sequence) -> None:
    numbers = what.array()
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 7)
    call(sequence(kind))(numbers.ctypes.data, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("at_end", [True, False])
def test_steps_are_cells_within_their_buffers(kind: str, at_end: bool) -> None:
    lanes, steps, hidden = llvm.host().lanes, 3, 2 * llvm.host().lanes
    rows = GATES[kind] * hidden
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((rows, hidden)) * (rng.random((rows, hidden)) < 0.5) / 4).astype(
        "f"
    )
    kernel = MatVec(sliced(weight, lanes))
    sizes = {"h": hidden, "c": hidden, "sums": rows, "gates": steps * rows, "out": steps * hidden}
    held = {name: guarded(size, at_end=at_end) for name, size in sizes.items()}
    for name in ("h", "c", "gates"):
        held[name][:] = rng.standard_normal(sizes[name])
    h, c, gates = (torch.from_numpy(held[n].astype(np.float64))[None] for n in ("h", "c", "gates"))
    right = []
    for given in gates.view(steps, rows):
        # the input's part comes ready: an identity matrix takes it through
        arguments = (torch.eye(rows).double(), torch.from_numpy(weight.astype(np.float64)))
        if kind == "lstm":
            h, c = CELLS[kind](given[None], (h, c), *arguments, None, None)
        else:
            h = CELLS[kind](given[None], h, *arguments, None, None)
        right.append(h[0])
    run(
        kind,
        Sequence(
            kernel=kernel.address,
            end=1,
            last=kernel.lanes,
            hidden=held["h"].ctypes.data,
            cell=held["c"].ctypes.data,
            sums=held["sums"].ctypes.data,
            sums_gate=hidden,
            gates=held["gates"].ctypes.data,
            gates_step=rows,
            gates_gate=hidden,
            gates_next=lanes,
            out=held["out"].ctypes.data,
            out_step=hidden,
            out_next=lanes,
            steps=steps,
            vectors=hidden // lanes,
        ),
    )
    out = held["out"].reshape(steps, hidden)
    np.testing.assert_allclose(out, torch.stack(right).numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(held["h"], out[-1])
    if kind == "lstm":
        np.testing.assert_allclose(held["c"], c[0].numpy(), rtol=0, atol=1e-6)


def test_a_cell_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="cell 'elman' is not known"):
        source("elman", llvm.AVX2)


@pytest.mark.parametrize("kind", GATES)
def test_other_machines_get_whole_vectors(kind: str) -> None:
    for target, sign in ((llvm.AVX512, "zmm"), (llvm.NEON, ".4s")):
        assert sign in llvm.assembly(source(kind, target), target)
