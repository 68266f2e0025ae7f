"""Path gradients: products of absolute weights, without a trace on the model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.measure.stats_paths import path_gradients


def test_a_chain_of_matrices_is_multiplied_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in ((3, 4), (4, 2), (2, 5))])
    found = path_gradients(net, Call((torch.randn(7, 3),), {}))
    a, _, c = (layer.weight.detach().double().abs() for layer in net)
    into = a.sum(1)  # ones come in
    onward = c.sum(0)
    torch.testing.assert_close(found["1.weight"], torch.outer(onward, into))
    assert {g.dtype for g in found.values()} == {torch.float64}


def test_a_deep_network_does_not_overflow() -> None:
    layers = [nn.Linear(64, 64, bias=False) for _ in range(40)]
    for layer in layers:
        nn.init.constant_(layer.weight, 3.0)
    found = path_gradients(nn.Sequential(*layers), Call((torch.ones(1, 64),), {}))
    largest = float(found["0.weight"].max())
    assert largest == pytest.approx(3.0**39 * 64.0**39, rel=1e-9)
    assert largest > 1e38 and math.isfinite(largest)


def test_the_model_is_left_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).half().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    call, random = Call((torch.randn(2, 2, 2, 2).half(),), {}), torch.get_rng_state()
    found = path_gradients(net, call)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())
    assert {p.dtype for p in net.parameters()} == {torch.float16}
    assert torch.equal(random, torch.get_rng_state()) and set(found) >= {"0.weight", "1.weight"}


def test_indices_stay_as_they_are_and_shared_weights_have_all_names() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    net[1].weight = net[0].weight
    found = path_gradients(net, Call((torch.tensor([[4, 0], [1, 1]]),), {}))
    assert torch.equal(found["0.weight"], found["1.weight"])


def test_recurrent_layers_have_paths() -> None:
    net = nn.LSTM(2, 3, batch_first=True)
    found = path_gradients(net, Call((torch.randn(2, 4, 2),), {}))
    assert float(found["weight_hh_l0"].abs().sum()) > 0


class Single(nn.Module):
    """Insists on float32."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.float())


def test_a_model_that_insists_on_float32_is_refused() -> None:
    with pytest.raises(InputError, match="does not run in float64"):
        path_gradients(Single(), Call((torch.ones(1, 2),), {}))
