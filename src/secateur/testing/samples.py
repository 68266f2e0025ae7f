"""Small models to try criteria, units and allocators on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.graph.analyze import analyze
from secateur.graph.graph import Graph


class _Images(nn.Module):
    """Convolutions with norms, one grouped, a residual block and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block = _Block(nn.Sequential(nn.Conv2d(8, 6, 1), nn.GELU(), nn.Conv2d(6, 8, 1)))
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.head = nn.Linear(12 + 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(self.block(torch.relu(self.norm(self.stem(x)))))
        return self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))


class _Sequences(nn.Module):
    """An embedding, an LSTM, attention and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.widen, self.out = nn.Linear(6, 12), nn.Linear(12, 2)
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.widen(self.lstm(self.embed(x))[0]))
        return self.out(y + self.attention(y, y, y, need_weights=False)[0])


class _Block(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def samples() -> Iterator[tuple[nn.Module, Tensor, Graph]]:
    """Small models to try things on; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = (_Images, torch.rand(2, 3, 5, 5)), (_Sequences, torch.arange(14).reshape(2, 7) % 7)
        made = [(kind().eval(), example) for kind, example in given]
        mean = made[0][0].get_buffer("norm.running_mean")
        mean.uniform_()
    for model, example in made:
        yield model, example, analyze(model, example)
