"""Moments of inputs against hooks and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.errors import InputError
from secateur.measure.stats_inputs import Moments, input_facts


def calls(*shapes: tuple[int, ...], seed: int = 0) -> list[Call]:
    generator = torch.Generator().manual_seed(seed)
    return [Call((torch.randn(*shape, generator=generator),), {}) for shape in shapes]


class Images(nn.Module):
    """Plain, grouped and transposed convolutions, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2, stride=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(torch.relu_(self.norm(self.plain(x))))
        return self.fc(self.up(y).mean((2, 3)))


def seen(net: nn.Module, given: list[Call]) -> dict[str, list[np.ndarray]]:
    """What every layer read, by hooks, as float64."""
    found: dict[str, list[np.ndarray]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, n=name: found.setdefault(n, []).append(args[0].double().numpy().copy())
        )
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]
    with torch.no_grad():
        for call in given:
            call.run(net)
    for handle in handles:
        handle.remove()
    return found


def test_moments_are_numpy_s() -> None:
    torch.manual_seed(0)
    net, given = Images().eval(), calls((5, 3, 7, 7), (2, 3, 7, 7))
    found = input_facts(net, given)
    assert set(found) == {"plain.weight", "grouped.weight", "up.weight", "fc.weight"}
    for name, arrays in seen(net, given).items():
        rows = np.concatenate([np.moveaxis(a, 1, -1).reshape(-1, a.shape[1]) for a in arrays])
        facts = found[f"{name}.weight"]
        assert facts.count == len(rows)
        assert facts.mean.dtype == torch.float64
        assert facts.mean.numpy().reshape(-1) == pytest.approx(rows.mean(0), abs=1e-6)
        assert facts.variance.numpy().reshape(-1) == pytest.approx(rows.var(0), abs=1e-6)
        assert facts.squared.numpy().reshape(-1) == pytest.approx((rows**2).sum(0), rel=1e-5)
    assert found["grouped.weight"].mean.shape == (2, 2)
    assert found["up.weight"].mean.shape == (2, 3)


def test_recurrent_weights_add_up_over_time() -> None:
    torch.manual_seed(0)
    net = nn.LSTM(3, 4, batch_first=True)
    (call,) = calls((2, 5, 3))
    found = input_facts(net, [call])
    outputs, _ = net(*call.args)
    before = torch.cat([torch.zeros(2, 1, 4), outputs[:, :-1]], 1).detach().double().reshape(-1, 4)
    assert found["weight_hh_l0"].count == 10
    torch.testing.assert_close(found["weight_hh_l0"].mean[0], before.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        found["weight_hh_l0"].variance[0], before.var(0, correction=0), atol=1e-6, rtol=0
    )
    assert found["weight_ih_l0"].count == 10


def test_packed_projections_of_attention_are_one() -> None:
    torch.manual_seed(0)
    net = nn.MultiheadAttention(4, 2, batch_first=True)
    query, memory = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    found = input_facts(net, [Call((query, memory, memory), {})])
    rows = torch.cat([query.reshape(-1, 4), memory.reshape(-1, 4)]).double()
    facts = found["in_proj_weight"]
    assert facts.spec.rows is None and facts.count == 16
    torch.testing.assert_close(facts.mean[0], rows.mean(0))


def test_a_large_mean_does_not_cancel() -> None:
    values = torch.tensor([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 5]).reshape(-1, 1, 1, 1)
    moments = Moments()
    for part in values.split(2):
        moments.add(part)
    assert float(moments.variance) == pytest.approx(3.5)
    assert moments.count == 4


def test_half_precision_does_not_overflow() -> None:
    moments = Moments()
    moments.add(torch.full((9, 1, 1, 1), 60000.0, dtype=torch.float16))
    assert float(moments.mean) == pytest.approx(60000, rel=1e-3)


def test_only_what_is_wanted_is_gathered_and_nothing_is_left_behind() -> None:
    net = Images().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    found = input_facts(net, calls((2, 3, 7, 7)), {"fc.weight"})
    assert set(found) == {"fc.weight"}
    assert all(module.training for module in net.modules())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_named(value: float) -> None:
    net = Images()
    with torch.no_grad():
        net.grouped.bias[0] = value
    with pytest.raises(InputError, match=r"the input of up\.weight holds values that are not"):
        input_facts(net, calls((2, 3, 7, 7)))
