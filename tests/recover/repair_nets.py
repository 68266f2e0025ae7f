"""Networks with something to repair, and cuts of exactly what a test wants removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.apply.cut import replay
from secateur.core.batches import as_call
from secateur.core.plan import Choice, Plan, fingerprint
from secateur.core.tensors import light_copy, named_tensors, own_memory
from secateur.graph.analyze import analyze
from secateur.graph.graph import Graph
from secateur.measure.calibration import calibration
from secateur.recover import Job


@dataclass
class Cut:
    """A network, its cut copy, and what is needed to repair that."""

    dense: nn.Module
    small: nn.Module
    plan: Plan
    graph: Graph

    def job(self, data: Any, **more: Any) -> Job:
        found = calibration(self.dense, data, **more)
        return Job(self.dense, self.small, self.plan, self.graph.roles, found)


def shrink(model: nn.Module, example: Any, removed: Mapping[str, list[int]]) -> Cut:
    """Remove the given indices of the given leaves; the model must be cut correctly."""
    graph = analyze(model, as_call(model, example))
    sites = {}
    for name, gone in removed.items():
        axis = graph.axes[name]
        assert axis.frozen is None, axis
        sites[name] = Choice(axis.n, np.setdiff1d(np.arange(axis.n), gone))
    plan = Plan(fingerprint(model), sites, graph.layouts, graph.attributes)
    small = light_copy(model)
    replay(small, plan, check=False)
    own_memory(small, model)
    return Cut(model, small, plan, graph)


def duplicate(model: nn.Module, graph: Graph, leaf: str) -> list[int]:
    """Make the second half of a leaf's indices copies of the first half; returns the copies."""
    n = graph.axes[leaf].n
    half = n // 2
    tensors = dict(named_tensors(model))
    with torch.no_grad():
        for name, layouts in graph.layouts.items():
            for dim, layout in enumerate(layouts):
                if leaf not in layout.names or graph.roles.get((name, dim)) == "in":
                    continue
                where = layout.coordinate(leaf)
                rows = torch.arange(layout.size)
                for k in range(half):
                    rows[torch.from_numpy(where == n - half + k)] = torch.from_numpy(
                        np.flatnonzero(where == k)
                    )
                tensors[name].copy_(tensors[name].index_select(dim, rows))
    return list(range(n - half, n))


def unsettle(model: nn.Module) -> nn.Module:
    """Give norms statistics and factors, so that they do something; evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for tensor, low in (
                    (module.running_mean, -0.5), (module.running_var, 0.5),
                    (module.weight, 0.5), (module.bias, -0.5),
                ):  # fmt: skip
                    assert tensor is not None
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return model.eval()


class Residual(nn.Module):
    """Stem, blocks of two convolutions with norms, and a head."""

    def __init__(self, width: int = 8, inner: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width, inner) for _ in range(blocks))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(width, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
        )
        self.conv2, self.bn2 = (
            nn.Conv2d(inner, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Attention(nn.Module):
    """Pre-norm attention and a feed-forward part, as in a transformer."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.dim, self.value_dim = heads, width // heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.norm1(x)
        q, k = (m(y).view(b, n, self.heads, self.dim).transpose(1, 2) for m in (self.q, self.k))
        v = self.v(y).view(b, n, self.heads, self.value_dim).transpose(1, 2)
        mixed = torch.softmax(q @ k.transpose(2, 3) / 2, -1) @ v
        x = x + self.o(mixed.transpose(1, 2).reshape(b, n, -1))
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x)


class Recurrent(nn.Module):
    """A recurrent layer and a head over its last outputs."""

    def __init__(self, kind: Any, inside: int = 5, hidden: int = 8, **more: Any) -> None:
        super().__init__()
        self.rnn = kind(inside, hidden, batch_first=True, **more)
        self.head = nn.Linear(hidden * (2 if more.get("bidirectional") else 1), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -3:].mean(1))


def error(dense: nn.Module, small: nn.Module, x: Any) -> float:
    """Largest difference of the outputs relative to the largest dense output."""
    with torch.no_grad():
        a, b = dense(x), small(x)
    return float((a - b).abs().max() / a.abs().max())
