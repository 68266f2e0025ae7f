"""Thresholds of a whole network: what is skipped, what that changes, and what stays."""

from __future__ import annotations

import pytest
import torch
from adapting import Recurrent, perceptron
from torch import Tensor, nn

import secateur as sc
from secateur.adapt.skipping import SkipLinear, Skipping
from secateur.core.errors import RecipeError
from secateur.runtime.kernels import skip


class Decoder(nn.Module):
    """Blocks in a chain behind an embedding, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList([Mlp() for _ in range(3)])
        self.head = nn.Linear(16, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


def test_the_sparsity_is_met_on_data_that_was_not_seen() -> None:
    net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 3))
    data = torch.randn(400, 6)
    for sparsity in (0.0, 0.3, 0.6):
        for allocate in ("greedy", "uniform"):
            lazy = sc.adapt.activations(
                net,
                data,
                sparsity=sparsity,
                allocate=allocate,
                only_faster=False,  # type: ignore[arg-type]
            )
            assert lazy.skipped == pytest.approx(sparsity, abs=0.05)


def test_zeros_are_skipped_for_nothing() -> None:
    net, _ = perceptron()
    lazy = sc.adapt.activations(net, torch.randn(100, 6), sparsity=0.0, only_faster=False)
    assert lazy.inputs[1].threshold == 0.0 and lazy.inputs[1].share > 0.2  # behind a ReLU
    assert lazy.distance < 1e-10


def test_nothing_skipped_changes_nothing() -> None:
    net, _ = perceptron()
    x = torch.randn(50, next(net.parameters()).shape[1])
    lazy = sc.adapt.activations(net, x, sparsity=0.0, only_faster=False)
    with torch.no_grad():
        assert torch.allclose(lazy(x), net(x), atol=1e-6)
        assert torch.allclose(lazy(x[:1]), net(x[:1]), atol=1e-6)
    assert lazy.distance < 1e-10


def test_uniform_thresholds_are_quantiles_of_what_comes_in() -> None:
    net, _ = perceptron()
    x = torch.randn(200, next(net.parameters()).shape[1])
    lazy = sc.adapt.activations(net, [x], allocate="uniform", only_faster=False, samples=200)
    shares = (x.abs() <= lazy.inputs[0].threshold).float().mean()
    assert float(shares) == pytest.approx(0.5, abs=0.05)


def test_greedy_changes_less_than_uniform() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 5)
    )
    with torch.no_grad():
        net[0].weight.mul_(3)
    data = torch.randn(400, 20)
    found = {
        how: sc.adapt.activations(net, data, allocate=how, only_faster=False).distance  # type: ignore[arg-type]
        for how in ("greedy", "uniform")
    }
    assert found["greedy"] < found["uniform"]


def test_decoders_skip_in_their_blocks() -> None:
    net, ids = Decoder().eval(), torch.randint(11, (40, 9))
    lazy = sc.adapt.activations(net, [ids], sparsity=0.4, only_faster=False)
    names = {layer.name for layer in lazy.inputs}
    assert names == {f"blocks.{k}.{part}" for k in range(3) for part in ("up", "down")}
    assert "outside the blocks, and dense: head" in str(lazy)
    for k in range(3):  # every block has the sparsity
        parts = [layer for layer in lazy.inputs if layer.name.startswith(f"blocks.{k}.")]
        share = sum(p.share * p.weights for p in parts) / sum(p.weights for p in parts)
        assert share == pytest.approx(0.4, abs=0.06)
    with torch.no_grad():
        whole, single = lazy(ids[:1]), torch.cat([lazy(ids[:1, t : t + 1]) for t in range(9)], 1)
    assert torch.allclose(whole, single, atol=1e-5)
    whole_net = sc.adapt.activations(net, [ids], scope=sc.only("head"), only_faster=False)
    assert [layer.name for layer in whole_net.inputs] == ["head"]


def test_recurrent_networks_skip_inputs_and_states() -> None:
    net, x = Recurrent().eval(), torch.randn(60, 6, 5)
    lazy = sc.adapt.activations(net, [x], only_faster=False)
    assert {layer.name for layer in lazy.inputs} == {"lstm input_l0", "lstm hidden_l0", "fc"}
    with torch.no_grad():
        assert torch.allclose(lazy(x[:1]), lazy(x)[:1], atol=1e-5)
    assert 0 < lazy.distance < 1


def test_the_model_stays_as_it_was() -> None:
    net, x = perceptron()
    net.train()
    data = torch.randn(100, x.shape[1])
    before = {name: (t.clone(), t.stride()) for name, t in net.state_dict().items()}
    types, state = [type(m) for m in net.modules()], torch.get_rng_state()
    lazy = sc.adapt.activations(net, data, only_faster=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert lazy.training and [type(m) for m in net.modules()] == types
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.stride() == before[name][1]
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert all(m.watch is None for m in lazy.modules() if isinstance(m, Skipping))


def test_layers_that_would_lose_stay_as_they_are() -> None:
    if not skip.available():
        pytest.skip("no code can be made here")
    net, x = perceptron()
    with pytest.raises(RecipeError, match="is faster"):
        sc.adapt.activations(net, torch.randn(100, x.shape[1]))
    net = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2048), nn.ReLU(), nn.Linear(2048, 2048)
    )
    lazy = sc.adapt.activations(net.eval(), torch.randn(60, 8), sparsity=0.9)
    kinds = [type(layer) is SkipLinear for layer in lazy.model if not isinstance(layer, nn.ReLU)]  # type: ignore[union-attr]
    assert kinds[0] is False and kinds[2] is True
    assert "no faster where they skip, and dense: 0" in str(lazy)


def test_what_makes_no_sense_is_refused() -> None:
    net, x = perceptron()
    for wrong in ({"sparsity": 1.0}, {"sparsity": -0.1}, {"allocate": "best"}):
        with pytest.raises(RecipeError):
            sc.adapt.activations(net, torch.randn(50, x.shape[1]), **wrong)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="no layer"):
        sc.adapt.activations(nn.Sequential(nn.Conv2d(1, 2, 1)), torch.randn(40, 1, 2, 2))
