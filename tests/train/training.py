"""Small trainings, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.train.held import Held
from secateur.units.weight import weight_sites

Batch = tuple[Tensor, Tensor]


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A convolution and two linear layers, 8 classes."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 32), nn.ReLU(), nn.Linear(32, 8),
    )  # fmt: skip
    return layers.to(dtype)


def batches(count: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Iterator[Batch]:
    """Images of 4 x 4 whose class is where they are bright."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        y = torch.randint(8, (16,), generator=generator)
        x = torch.randn(16, 16, generator=generator)
        x[torch.arange(16), y] += 2
        yield x.reshape(16, 1, 4, 4).to(dtype), y


def train(
    model: nn.Module,
    optimizer: Optimizer,
    data: Iterator[Batch],
    after: Callable[[], object] = lambda: None,
) -> float:
    """Train over the data; the last loss."""
    loss = torch.zeros(())
    for x, y in data:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        after()
    return float(loss.detach())


def sgd(model: nn.Module, lr: float = 0.1) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-3)


def held(model: nn.Module, optimizer: Optimizer | None = None) -> list[Held]:
    """All weights of a model."""
    parameters = dict(model.named_parameters())
    optimizer = sgd(model) if optimizer is None else optimizer
    return [Held.of(site, parameters[site.name], optimizer) for site in weight_sites(model)]


def zeros(model: nn.Module) -> tuple[int, int]:
    """Zeros among the weights of all layers, and how many weights there are."""
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
