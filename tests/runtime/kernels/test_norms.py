from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("llvmlite", reason="kernels need llvmlite")

from secateur.runtime.kernels import norms
from secateur.runtime.machine import parallel


def low(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@pytest.mark.parametrize(("tokens", "features"), [(16, 5), (32, 64), (48, 1)])
def test_layer_norm(tokens: int, features: int) -> None:
    x = torch.randn(features, tokens) + 10
    y = torch.zeros(features, tokens + 16)
    weight, bias = torch.randn(features), torch.randn(features)
    numbers = np.array(
        [tokens, tokens + 16, features, weight.data_ptr(), bias.data_ptr(), low(1 / features),
         low(1e-5)],
        np.int64,
    )  # fmt: skip
    task = [x.data_ptr(), y.data_ptr(), numbers.ctypes.data, 0, tokens, 0, 0]
    parallel(norms.layer_norm(), np.array([task], np.int64))
    exact = torch.nn.functional.layer_norm(
        x.t().double(), (features,), weight.double(), bias.double()
    ).t()
    assert (y[:, :tokens] - exact).abs().max() < 2e-5
