"""Processes that train one model together: what they add up, so that all decide alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from secateur.core.errors import UnsupportedModel


@dataclass(frozen=True)
class Peers:
    """A group of processes; None where there is only this one.

    shards: the processes that hold parts of the weights (FSDP2). all: those that train together
    (DDP or FSDP2). device: where their collectives take place.
    """

    shards: Any = None
    all: Any = None
    device: str | torch.device = "cpu"

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the holders of shards."""
        return self._reduce(value, "SUM")

    def least(self, value: Tensor) -> Tensor:
        """The elementwise minimum over the holders of shards."""
        return self._reduce(value, "MIN")

    def count(self, value: int) -> int:
        """The sum of an integer over the holders of shards."""
        return value if self.shards is None else int(self.sum(torch.tensor(value)))

    def before(self, value: int) -> tuple[int, int]:
        """Of an integer on each holder of shards: the sum of those before this one, and of all."""
        if self.shards is None:
            return 0, value
        found = torch.zeros(dist.get_world_size(self.shards), dtype=torch.long, device=self.device)
        rank = dist.get_rank(self.shards)
        found[rank] = value
        dist.all_reduce(found, group=self.shards)
        return int(found[:rank].sum()), int(found.sum())

    def mean(self, value: float) -> float:
        """The mean of a number over all processes that train together."""
        if self.all is None:
            return value
        total = torch.tensor([value], dtype=torch.double, device=self.device)
        dist.all_reduce(total, group=self.all)
        return float(total) / dist.get_world_size(self.all)

    def average(self, value: Tensor) -> Tensor:
        """The elementwise mean over processes that hold the whole of it; shards stay."""
        if self.all is None or self.shards is not None:
            return value
        total = value.to(self.device, copy=True)
        dist.all_reduce(total, group=self.all)
        return (total / dist.get_world_size(self.all)).to(value.device)

    def same(self, value: int) -> int:
        """The first process's integer."""
        if self.all is None:
            return value
        given = torch.tensor([value], device=self.device)
        dist.broadcast(given, group=self.all, group_src=0)
        return int(given)

    def _reduce(self, value: Tensor, how: str) -> Tensor:
        if self.shards is None:
            return value
        moved = value.to(self.device)
        moved = moved.clone() if moved is value else moved
        dist.all_reduce(moved, op=getattr(dist.ReduceOp, how), group=self.shards)
        return moved.to(value.device)


def peers(model: nn.Module, parameters: Iterable[Tensor]) -> Peers:
    """Who trains these parameters together, as the wrapping of the model says.

    Raises:
        UnsupportedModel: Parameters are spread in another way than FSDP2's, along dimension 0.
    """
    given = list(parameters)
    spread = [p for p in given if is_spread(p)]
    device: str | torch.device = given[0].device if given else "cpu"
    if not spread:
        group = (
            model.process_group if isinstance(model, nn.parallel.DistributedDataParallel) else None
        )
        return Peers(None, group, device)
    from torch.distributed.tensor import Replicate, Shard

    mesh, placements = spread[0].device_mesh, spread[0].placements  # type: ignore[attr-defined]
    fits = placements[-1] == Shard(0) and all(p == Replicate() for p in placements[:-1])
    if len(spread) < len(given) or not fits:
        raise UnsupportedModel(
            "the weights in scope are not all spread over processes along dimension 0",
            hint="fully_shard(model) spreads all of them so",
        )
    shards = mesh.get_group(mesh.ndim - 1)
    everyone = shards if mesh.ndim == 1 else dist.group.WORLD
    return Peers(shards, everyone, torch.device(mesh.device_type))


def is_spread(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; imports nothing where none can be."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if is_spread(tensor) else tensor  # type: ignore[operator]
