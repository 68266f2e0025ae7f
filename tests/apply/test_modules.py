"""PyTorch's own modules tell the truth about their sizes after a cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from apply_nets import images, points
from torch import Tensor, nn

import secateur as sc
from secateur.apply.edit import Edit
from secateur.apply.modules import Skip, refresh


def run(model: nn.Module, x: Tensor) -> nn.Module:
    """Cut in half and used again."""
    result = sc.prune(
        model, x, budget=sc.Sparsity(0.5), allocate="uniform", criterion="random", latency=False
    )
    assert result.verification.ok
    result.model.eval()(x)
    return result.model


def sizes(module: nn.Module, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(module, name) for name in names)


CHANNELS = "in_channels", "out_channels"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(dims: int) -> None:
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dims - 1]
    norm = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][dims - 1]
    model = nn.Sequential(
        conv(3, 8, 3), norm(8), conv(8, 8, 3, groups=8), nn.PReLU(8), conv(8, 4, 1)
    )
    small = run(model, torch.randn(2, 3, *[8] * dims))
    assert sizes(small[0], *CHANNELS) == (3, 4)
    assert sizes(small[2], *CHANNELS, "groups") == (4, 4, 4)
    assert (small[1].num_features, small[3].num_parameters) == (4, 4)
    assert sizes(small[4], *CHANNELS) == (4, 4)
    assert "Conv" in repr(small[0]) and "(3, 4" in repr(small[0])


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_transposed_convolutions(groups: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ConvTranspose2d(8, 16, 2, stride=2, groups=groups),
        nn.Conv2d(16, 4, 1),
    )
    small = run(model, images())
    up = small[1]
    assert up.in_channels == small[0].out_channels == up.weight.shape[0]
    assert up.out_channels == small[2].in_channels == up.weight.shape[1] * up.groups


def test_grouped_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1, groups=4), nn.Conv2d(8, 4, 1))
    small = run(model, images())
    grouped = small[1]
    assert grouped.in_channels == small[0].out_channels == grouped.weight.shape[1] * grouped.groups
    assert grouped.out_channels == small[2].in_channels == grouped.weight.shape[0]


def test_norms() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
            self.layer, self.rms = nn.LayerNorm(8), nn.RMSNorm(8)
            self.group = nn.GroupNorm(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.group(self.rms(self.layer(self.a(x))).mT).mT)

    small = run(Norms(), torch.randn(2, 5, 6))
    n = small.a.out_features
    assert n < 8 and small.layer.normalized_shape == (n,) == small.rms.normalized_shape
    assert small.group.num_channels == n == small.group.weight.shape[0]
    assert n % small.group.num_groups == 0
    assert f"({n},)" in repr(small.layer)


def test_embeddings() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.bag, self.b = nn.Embedding(9, 8), nn.EmbeddingBag(9, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.b(self.one(ids).sum(1) + self.bag(ids))

    small = run(Bags(), torch.randint(0, 9, (4, 5)))
    assert sizes(small.one, "num_embeddings", "embedding_dim") == (9, 4)
    assert sizes(small.bag, "num_embeddings", "embedding_dim") == (9, 4)
    assert small.b.in_features == 4


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_layers(kind: str, layers: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 3)
            self.rnn = getattr(nn, kind)(8, 6, num_layers=layers, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.rnn(self.a(x))[0])

    small = run(Net(), torch.randn(2, 5, 6))
    assert sizes(small.rnn, "input_size", "hidden_size") == (4, 3)
    assert small.b.in_features == 3
    assert small.rnn(torch.randn(2, 5, 4))[0].shape == (2, 5, 3)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_recurrent_cells(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 3)
            self.cell = getattr(nn, kind)(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(self.a(x))
            return self.b(state[0] if isinstance(state, tuple) else state)

    small = run(Net(), points())
    assert sizes(small.cell, "input_size", "hidden_size") == (4, 3)


@pytest.mark.parametrize("memory", [8, 6])
def test_multihead_attention(memory: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(8, 4, batch_first=True, kdim=memory, vdim=memory)
            self.a, self.m = nn.Linear(6, 8), nn.Linear(6, memory)
            self.b = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            m = self.m(x) if memory != 8 else self.a(x)
            return self.b(self.mha(self.a(x), m, m, need_weights=False)[0])

    small = run(Net(), torch.randn(2, 5, 6))
    mha = small.mha
    assert mha.num_heads == 2 and mha.head_dim * mha.num_heads == mha.out_proj.in_features
    width = mha.q_proj_weight if mha.in_proj_weight is None else mha.in_proj_weight
    assert mha.embed_dim == width.shape[1] == small.a.out_features


def test_bilinear() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Bilinear(8, 8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.c(self.b(y, y))

    small = run(Net(), points())
    assert sizes(small.b, "in1_features", "in2_features", "out_features") == (4, 4, 3)


def test_a_subclass_with_other_tensors_is_left_alone() -> None:
    class Quantised(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 4)
            del self.weight
            self.codes = nn.Parameter(torch.zeros(4, 6))
            self.weight = torch.tensor(0.0)

    layer, edit = Quantised(), Edit()
    refresh(edit, layer)
    assert (layer.in_features, layer.out_features) == (6, 4)


@pytest.mark.parametrize("training", [True, False])
def test_parametrised_weights_are_not_evaluated(training: bool) -> None:
    """A spectral norm changes its buffers whenever its weight is read in training mode."""
    norm = torch.nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).train(training)
    vectors = [b.clone() for b in model.buffers()]
    result = sc.prune(model, points(), latency=False)
    assert result.verification.ok and result.model[0].out_features == 4
    assert all(torch.equal(a, b) for a, b in zip(vectors, model.buffers(), strict=True))


def test_skip_returns_its_input() -> None:
    x = points()
    assert Skip()(x) is x
    assert Skip()(features=x, mask=None) is x
    assert Skip()(None if False else x, torch.ones(1)) is x
    assert Skip(as_tuple=True)(x) == (x,)
    assert not list(Skip().parameters())
