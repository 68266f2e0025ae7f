"""Kernels with an activation behind them, against float64 and between forbidden pages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from planes_fuzz import fuzz

from secateur.core.errors import InputError
from secateur.runtime.emit.planes import EmittedKernel, Loop, available
from secateur.runtime.kernels import activated, llvm
from secateur.runtime.kernels.activated import ActivatedKernel, plain, source
from secateur.runtime.kernels.csr import CsrKernel
from secateur.runtime.kernels.llvm import Target
from secateur.runtime.planes import Planes, from_linear

SLOW = ["silu", "gelu", "gelu_tanh", "hardswish"]


@pytest.mark.parametrize("near", [1, 4000])
@pytest.mark.parametrize("activation", SLOW)
def test_small_layers_between_guards(
    activation: str, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activated, "_NEAR", near)

    def make(layer: Planes) -> ActivatedKernel:
        return ActivatedKernel(CsrKernel(plain(layer)), layer)

    rng = np.random.default_rng(len(activation))
    assert 0 < fuzz(rng, make, (activation, near == 1, True), 6, 8) < 1e-6


@pytest.mark.parametrize("isa", available(), ids=lambda isa: isa.name)
@pytest.mark.parametrize("rows", [1, 3])
def test_around_emitted_kernels(isa, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activated, "_NEAR", 1)  # as few planes at a time as the kernel allows

    def make(layer: Planes) -> ActivatedKernel:
        inner = EmittedKernel(plain(layer), Loop(2, 4096, rows), isa)
        kernel = ActivatedKernel(inner, layer)
        assert (kernel.block, kernel.step, kernel.name) == (rows, inner.step, inner.name)
        assert kernel.bytes > inner.bytes
        return kernel

    for residual in (False, True):
        rng = np.random.default_rng(rows)
        assert 0 < fuzz(rng, make, ("gelu", residual, residual), 6, 8) < 1e-6


def test_around_a_kernel_of_narrower_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    host = llvm.host()
    other = Target(host.triple, "x86-64" if "86" in host.triple else host.cpu, "", 4, 16, False)

    def make(layer: Planes) -> ActivatedKernel:
        with monkeypatch.context() as patch:
            patch.setattr(llvm, "host", lambda: other)
            inner = CsrKernel(plain(layer))
        kernel = ActivatedKernel(inner, layer)
        assert kernel.step == 4
        return kernel

    assert 0 < fuzz(np.random.default_rng(0), make, ("silu", False, False), 4, 8) < 1e-6


def test_steps_that_are_no_whole_vectors_are_refused() -> None:
    inner = SimpleNamespace(step=9, wide=9, block=1, address=0, bytes=0, name="")
    with pytest.raises(InputError, match="are no whole vectors"):
        ActivatedKernel(inner, from_linear(np.eye(2), pitch=16))  # type: ignore[arg-type]


@pytest.mark.parametrize(("target", "sign"), [(llvm.AVX512, "zmm"), (llvm.NEON, "fmla\tv")])
def test_other_machines_get_whole_vectors(target: llvm.Target, sign: str) -> None:
    assert sign in llvm.assembly(source("gelu", target), target)
