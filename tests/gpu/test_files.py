"""Files of networks on a GPU: saved there, loaded here, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cuda_nets import FAMILIES, GPU, apart, at_home, data, net, run

import secateur as sc


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_on_the_gpu_and_loaded_on_either(family: str, tmp_path: Path) -> None:
    x = data(family)
    result = sc.prune(net(family), data=x, budget=sc.MACs("60%"), latency=False)
    sc.save(result, tmp_path / "there")
    back = sc.load(tmp_path / "there", into=lambda: net(family, "cpu"))
    again = sc.load(tmp_path / "there", into=net(family))
    assert {p.device.type for p in back.parameters()} == {"cpu"}
    assert at_home(again)
    assert apart(run(result.model, x), run(again, x)) == 0
    assert apart(run(result.model, x), run(back, x)) < 2e-3
    sc.save(back, tmp_path / "here")
    assert at_home(sc.load(tmp_path / "here", into=net(family)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sparse_files(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = net("attention", dtype=dtype), data("attention", 8, GPU, dtype)
    result = sc.prune(model, x, unit=sc.Weight(), budget=sc.Sparsity(0.9), latency=False)
    sc.save(result, tmp_path / "sparse")
    back = sc.load(tmp_path / "sparse", into=net("attention", dtype=dtype))
    assert at_home(back)
    for name, parameter in result.model.named_parameters():
        assert torch.equal(parameter, back.get_parameter(name))


def test_export(tmp_path: Path) -> None:
    model, x = net("convolutions"), data("convolutions", 4, GPU)
    result = sc.prune(model, x, budget=sc.MACs("50%"), latency=False)
    for suffix, library in ((".pt2", "torch"), (".onnx", "onnxscript")):
        pytest.importorskip(library)
        assert str(sc.export(result, tmp_path / f"net{suffix}", x))
    assert at_home(result.model)
