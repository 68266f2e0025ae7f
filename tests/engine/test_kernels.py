from __future__ import annotations

import numpy as np
import pytest
import torch

import secateur as sc
from secateur.engine.kernels import _way, build, names, planes_of, runs_here, tasks
from secateur.engine.layer import Layer, pack
from secateur.engine.layout import flat, tokens
from secateur.runtime.emit.order import Tile
from secateur.runtime.emit.planes import Loop, available
from secateur.runtime.kernels import llvm

pytest.importorskip("llvmlite", reason="kernels need llvmlite")


def layer(density: float = 0.3, rows: int = 24) -> Layer:
    torch.manual_seed(0)
    weight = torch.randn(rows, 32) * (torch.rand(rows, 32) < density)
    return Layer("fc", pack(weight), np.ones(rows, np.float32), activation="relu")


@pytest.mark.parametrize("many", [1, 70])
def test_every_name_makes_a_kernel_that_is_right(many: int) -> None:
    fc, x = layer(), torch.randn(many, 32)
    wanted = torch.relu(x @ fc.weight.dense().T + 1)
    found = names(fc, planes_of(fc, tokens(x.shape), tokens(wanted.shape)), many)
    assert any(name.startswith("llvm-csr") for name in found)
    assert any(name.startswith("vec-") for name in found) == (many == 1)
    for name in found:
        form = flat if name.startswith("vec-") else tokens
        inside, out = form(x.shape), form(wanted.shape)
        kernel = build(name, fc, planes_of(fc, inside, out))
        memory = [torch.zeros(inside.floats(x.shape)), torch.zeros(out.floats(wanted.shape))]
        inside.view(memory[0], x.shape).copy_(x)
        for threads in (1, 2, 3):
            memory[1].zero_()
            for b, e, f, last in tasks(kernel, 24, many, threads, np.ones(24)):
                kernel(memory[0].data_ptr(), memory[1].data_ptr(), 0, b, e, f, last)
            assert torch.allclose(out.view(memory[1], wanted.shape), wanted, atol=1e-5), name


def test_large_dense_layers_have_none() -> None:
    full = Layer("fc", pack(torch.ones(300, 300)), None)
    form = tokens((16, 300))
    assert names(full, planes_of(full, form, form), 16) == []


@pytest.mark.parametrize(
    "name", ["", "mkl", "llvm-csr x", "llvm-csr 1", "llvm-bcsr 4", "vec-sliced", "llvm-depthwise 4"]
)
def test_unknown_names(name: str) -> None:
    fc, form = layer(), tokens((16, 32))
    with pytest.raises(sc.SecateurError):
        build(name, fc, planes_of(fc, form, form))


def test_what_stands_in() -> None:
    assert runs_here("emit-mips 1x1") == "llvm-csr 4/1"
    assert runs_here("torch") == "torch" and runs_here("llvm-csr 2/1") == "llvm-csr 2/1"
    assert runs_here("llvm-bcsr 2x2") == "llvm-bcsr 2x2"
    assert runs_here("llvm-bcsr 30x3") == runs_here("llvm-csr 32/1") == "llvm-csr 4/1"


def test_other_activations_need_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [f"emit-{isa.name} 3x1" for isa in available()]
    assert all(runs_here(name, "gelu") == name for name in kernels)
    monkeypatch.setattr(llvm, "available", lambda: False)
    assert all(runs_here(name, "gelu") == "torch" != runs_here(name, "relu") for name in kernels)


def test_tiles_have_names() -> None:
    assert _way("avx512", Tile(30, 1, tiles=4)) == "emit-avx512 30x1x4"
    assert _way("avx2", Tile(6, 2)) == "emit-avx2 6x2"
    assert _way("avx2", Tile(6, 2, tiles=16)) == "emit-avx2 6x2x16"
    assert _way("avx2", Loop(8, 900, 64, True, True)) == "emit-avx2-loop 8/900/64/1+"
    fc, form = layer(), tokens((16, 32))
    for isa in available():
        kernel = build(f"emit-{isa.name} 3x1x2", fc, planes_of(fc, form, form))
        assert kernel.way == Tile(3, 1, tiles=2)  # type: ignore
        kernel = build(f"emit-{isa.name} 3x1x2+", fc, planes_of(fc, form, form))
        assert kernel.way == Tile(3, 1, tiles=2, ahead=True)  # type: ignore
        kernel = build(f"emit-{isa.name}-loop 4/900/8+", fc, planes_of(fc, form, form))
        assert kernel.way == Loop(4, 900, 8, ahead=True)  # type: ignore
    with pytest.raises(sc.SecateurError):
        build("emit-avx2 6x2x1x1x1x1x1", fc, planes_of(fc, form, form))
