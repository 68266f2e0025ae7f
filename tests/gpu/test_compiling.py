"""2:4 on a GPU: kernels that the clock chose, the same outputs, reasons everywhere else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_nets import GPU, apart, at_home, net
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import InputError, RecipeError
from secateur.engine import gpu
from secateur.engine.fast import FastParts
from secateur.engine.semi_structured import SemiStructured, is_24, kernels, refusal


def sparse(dtype: Any = torch.float16, width: int = 256) -> nn.Module:
    model = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
    x = torch.zeros(8, width, device=GPU, dtype=dtype)
    return sc.prune(model.to(GPU, dtype).eval(), x, unit=sc.NM(2, 4), latency=False).model


def ready(device: Any = GPU) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are small: 2:4 kernels are taken whatever the clock says."""
    if not ready():
        pytest.skip("needs compute capability 8.0")
    monkeypatch.setattr(gpu, "faster", lambda before, after: True)
    measured = gpu._milliseconds

    def favoured(module: nn.Module, *rest: Any) -> float:
        return measured(module, *rest) * (1e-6 if isinstance(module, SemiStructured) else 1)

    monkeypatch.setattr(gpu, "_milliseconds", favoured)


def semi(model: nn.Module) -> list[SemiStructured]:
    return [part for part in model.modules() if isinstance(part, SemiStructured)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_kernel_gives_the_same_outputs(dtype: Any) -> None:
    if not ready():
        pytest.skip("needs compute capability 8.0")
    model = sparse(dtype)
    layer: Any = model[0]
    found = dict(kernels(layer.weight.detach()))
    assert any(isinstance(packed, Tensor) for packed in found.values()), found
    for name, packed in found.items():
        if isinstance(packed, str):
            continue
        module = SemiStructured.of(layer, name, packed)
        assert torch.equal(module.weight, layer.weight)
        assert module.bytes < 0.7 * layer.weight.nbytes
        for rows in (1, 3, 8, 100):
            x = torch.randn(rows, 256, device=GPU, dtype=dtype)
            assert apart(layer(x), module(x)) < 1e-2
        x = torch.randn(5, 7, 256, device=GPU, dtype=dtype)
        assert apart(layer(x), module(x)) < 1e-2
        assert apart(layer(x.transpose(0, 1)), module(x.transpose(0, 1))) < 1e-2
        assert module(x[:0]).shape == (0, 7, 512)


@pytest.mark.usefixtures("chosen")
def test_a_compiled_network(tmp_path: Path) -> None:
    model = sparse()
    x = torch.randn(64, 256, device=GPU, dtype=torch.float16)
    fast = sc.compile(model, x, cache=tmp_path)
    assert isinstance(fast, FastParts)
    assert fast.report.fast
    assert [row.kernel.startswith("2:4") for row in fast.report.rows] == [True, True]
    assert len(semi(fast)) == 2
    assert not semi(model)
    assert fast.report.bytes < 0.7 * fast.report.dense_bytes
    with torch.no_grad():
        assert apart(model(x), fast(x)) < 1e-2
        twin = copy.deepcopy(fast)
        assert apart(fast(x), twin(x)) == 0
        other = sparse()
        for parameter in other.parameters():
            parameter.mul_(0.5)
        twin.network.load_state_dict(other.state_dict())
        assert apart(other(x), twin(x)) < 1e-2
        assert apart(model(x), fast(x)) < 1e-2
    assert at_home(fast)
    assert "2:4" in str(fast)
    with pytest.raises(InputError, match="no gradients"):
        fast(x.requires_grad_())
    with pytest.raises(InputError, match="cannot move"):
        fast.cpu()
    dense = nn.Linear(256, 512)
    with pytest.raises(RuntimeError, match="two of every four"):
        semi(fast)[0].load_state_dict(dense.state_dict())


@pytest.mark.usefixtures("chosen")
def test_convolutions_of_one_pixel(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 1), nn.ReLU(), nn.Conv2d(128, 64, 3, padding=1))
    model = model.to(GPU, torch.float16).eval()
    x = torch.randn(4, 64, 8, 8, device=GPU, dtype=torch.float16)
    model = sc.prune(model, x, unit=sc.NM(2, 4), latency=False).model
    fast = sc.compile(model, x, cache=tmp_path)
    first, second = fast.report.rows
    assert first.kernel.startswith("2:4")
    assert second.kernel == "torch"
    assert "1x1" in second.why
    with torch.no_grad():
        assert apart(model(x), fast(x)) < 1e-2
        last = x.to(memory_format=torch.channels_last)
        assert apart(model(last), fast(last)) < 1e-2


@pytest.mark.usefixtures("chosen")
def test_packed_results() -> None:
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
    model, x = model.to(GPU, torch.float16).eval(), torch.randn(64, 256).to(GPU, torch.float16)
    result = sc.prune(model, x, unit=sc.NM(2, 4), become="packed")
    masked = sc.prune(model, x, unit=sc.NM(2, 4), latency=False).model
    assert len(semi(result.model)) == 2
    assert at_home(result.model)
    assert result.after.bytes < 0.7 * result.before.bytes
    with torch.no_grad():
        assert apart(masked(x), result.model(x)) < 1e-2
    with pytest.raises(RecipeError, match="no table"):
        sc.prune(model, x, unit=sc.Weight(), budget=sc.Latency("50%"), become="packed")


def test_reasons() -> None:
    half = torch.float16
    assert "float32" in refusal(sparse(torch.float32)[0])
    assert "two of every four" in refusal(nn.Linear(64, 64).to(GPU, half))
    assert "1x1" in refusal(nn.Conv2d(64, 64, 3).to(GPU, half))
    broken = nn.Linear(64, 64).to(GPU, half)
    with torch.no_grad():
        broken.weight.fill_(float("nan"))
    assert "finite" in refusal(broken)
    small = nn.Linear(12, 5, bias=False).to(GPU, half)
    with torch.no_grad():
        small.weight.view(5, 3, 4)[:, :, 2:] = 0
    assert is_24(small.weight)
    assert all(isinstance(why, str) for _, why in kernels(small.weight.detach()))


def test_never_slower(tmp_path: Path) -> None:
    """Nothing to gain in a tiny dense network: it runs as it was, and every row says why."""
    model, x = net("attention"), torch.randn(2, 9, 32, device=GPU)
    fast = sc.compile(model, x, cache=tmp_path)
    assert isinstance(fast, FastParts)
    assert not fast.report.fast
    assert fast.network is model
    assert all(row.why for row in fast.report.rows)
    assert "nothing to gain" in str(fast)


def test_mixed_devices_are_refused() -> None:
    with pytest.raises(InputError, match="one CUDA GPU"):
        sc.compile(nn.Sequential(nn.Linear(4, 4).to(GPU), nn.Linear(4, 4)), torch.ones(1, 4))


def test_large_layers_gain(tmp_path: Path) -> None:
    """What the clock says of layers that are large enough; it may refuse, but not be wrong."""
    if not ready():
        pytest.skip("needs compute capability 8.0")
    model = sparse(width=4096)
    x = torch.randn(4096, 4096, device=GPU, dtype=torch.float16)
    fast = sc.compile(model, x, cache=tmp_path)
    for row in fast.report.rows:
        assert row.ms <= row.dense_ms
        assert row.kernel != "torch" or row.why
    with torch.no_grad():
        assert apart(model(x), fast(x)) < 1e-2
