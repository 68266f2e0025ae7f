"""A small task that can be learned, and jobs on it."""

from __future__ import annotations

from typing import Any

import torch
from repair_nets import Cut, shrink
from torch import Tensor, nn

from secateur.recover import Job, Supervision

GONE = {"0": [0, 1, 2, 3, 4, 5, 6, 7, 8]}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


def samples(count: int = 200) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(5))
    return x, (x[:, :3] * x[:, 1:]).argmax(1)


def batches(count: int = 200, size: int = 20) -> list[Any]:
    return list(zip(*(part.split(size) for part in samples(count)), strict=True))


def taught() -> nn.Module:
    """The network after some training."""
    model, (x, y) = net(), samples()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval()


def cut(model: nn.Module | None = None) -> Cut:
    return shrink(model or taught(), samples(4)[0], GONE)


def job(data: Any = None, found: Cut | None = None, **supervision: Any) -> Job:
    data = batches() if data is None else data
    made = (found or cut()).job([samples()[0]])
    made.supervision = Supervision(data=data, **supervision)
    return made


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )
