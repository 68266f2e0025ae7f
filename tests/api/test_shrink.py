"""From zeros to smaller shapes, with the outputs as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv1, self.norm1 = nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.conv2, self.norm2 = nn.Conv2d(10, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.norm1(self.conv1(x)))
        return self.head(torch.relu(x + self.norm2(self.conv2(y))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.head = kind(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(16), 4
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (
            m(y).unflatten(2, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        mixed = torch.softmax(q @ k.transpose(2, 3), -1) @ v
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(x)))


def clear(*parts: tuple[Tensor, Any]) -> None:
    with torch.no_grad():
        for tensor, where in parts:
            tensor[where] = 0


ALL = slice(None)


def check(model: nn.Module, x: Tensor, **options: Any) -> Any:
    """Shrink, and compare on data that the verification has not seen."""
    before = {name: t.clone() for name, t in model.state_dict().items()}
    result = sc.shrink(model, x[:2])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(model(x), result.model(x), atol=1e-5)
    assert result.verification is not None and result.verification.ok
    return result


def test_filters_that_nothing_reads_or_feeds() -> None:
    model = Residual().eval()
    with torch.no_grad():
        model.norm1.running_mean.uniform_(-1, 1)
        model.norm1.bias.fill_(-0.5)
        model.norm1.running_mean[:3] = 0  # these are zero behind the ReLU, so padding is no matter
    clear((model.conv1.weight, slice(0, 3)), (model.conv2.weight, (ALL, 9)))
    result = check(model, torch.randn(6, 3, 9, 9))
    assert result.model.conv1.out_channels == result.model.conv2.in_channels == 6
    assert result.after.params < result.before.params and result.after.macs < result.before.macs


def test_a_stream_s_channel_goes_only_where_all_that_write_it_are_zero() -> None:
    model = Residual().eval()
    clear((model.stem.weight, [1, 2]), (model.stem.bias, [1, 2]), (model.conv2.weight, 1))
    result = check(model, torch.randn(6, 3, 9, 9))
    assert result.model.stem.out_channels == 7


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_hidden_units_that_nothing_reads(kind: Any) -> None:
    model = Recurrent(kind).eval()
    clear((model.head.weight, (ALL, 2)), (model.rnn.weight_hh_l0, (ALL, 2)))
    clear((model.head.weight, (ALL, 5)))  # other units still read it
    result = check(model, torch.randn(6, 7, 5))
    assert result.model.rnn.hidden_size == 7


def test_heads_and_neurons() -> None:
    model = Attention().eval()
    clear((model.o.weight, (ALL, slice(4, 8))), (model.down.weight, (ALL, slice(0, 5))))
    clear((model.up.weight, slice(10, 12)))  # constants, which go into the bias of down
    result = check(model, torch.randn(6, 5, 16))
    assert result.model.q.out_features == 12 and result.model.heads == 3
    assert result.model.up.out_features == 32 - 7


def test_what_a_cut_leaves_dead_is_cut_too() -> None:
    model = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    clear((model[4].weight, (ALL, slice(0, 4))), (model[2].weight, (slice(4, 8), slice(0, 3))))
    result = check(model, torch.randn(6, 4))
    assert (result.model[0].out_features, result.model[2].out_features) == (5, 4)
    assert len(result.plans) == 2


def test_nothing_dead_is_nothing_cut() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    result = check(model, torch.randn(6, 4))
    assert result.before.params == result.after.params and len(result.plans) == 1
    assert "nothing is dead" in str(result)


def test_a_branch_that_is_wholly_dead_keeps_one_unit() -> None:
    model = Residual().eval()
    clear((model.conv2.weight, ALL))
    result = check(model, torch.randn(6, 3, 9, 9))
    assert result.model.conv1.out_channels == 1


def test_a_pruned_network_is_shrunk_saved_and_loaded(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )

    model, x = make().eval(), torch.randn(80, 16)
    pruned = sc.prune(
        model, data=[x], unit=sc.Weight(), budget=sc.Sparsity(0.95), allocate="global",
        latency=False,
    )  # fmt: skip
    result = check(pruned.model, x)
    assert result.after.params < 0.5 * result.before.params and len(result.plans) >= 2
    assert "what is left physically" in result.notes[0]
    loaded = sc.load(sc.save(result, tmp_path), into=make).eval()
    assert torch.equal(loaded(x), result.model(x))
