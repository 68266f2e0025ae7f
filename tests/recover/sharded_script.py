"""Run by `test_distributed`: what the loop does with a sharded model, in two processes."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.optim import Adam

from secateur.recover.checkpoint import (
    model_state,
    optimizer_state,
    set_model_state,
    set_optimizer_state,
)
from secateur.recover.loop import _placed

warnings.simplefilter("ignore")
torch.set_num_threads(1)
MASK = torch.arange(48).view(12, 4) % 3 > 0


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))


def steps(model: nn.Module, optimizer: Adam, first: int, last: int) -> None:
    """The same batch on all processes, so that a plain model takes the same steps."""
    for seed in range(first, last):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            weight = model[0].weight
            weight.mul_(_placed(MASK, weight))


def main() -> None:
    torch.distributed.init_process_group("gloo")
    plain = net()
    optimizer = Adam(plain.parameters(), lr=0.05)
    steps(plain, optimizer, 0, 3)
    sharded = fully_shard(net())
    other = Adam(sharded.parameters(), lr=0.05)
    steps(sharded, other, 0, 3)
    whole = model_state(sharded, everywhere=True)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(whole[name], value)
    assert bool(((whole["0.weight"] != 0) == MASK).all())
    states, (tensors, values) = model_state(sharded), optimizer_state(sharded, other)
    pieces: list[object] = copy.deepcopy([states, tensors, values])
    torch.distributed.broadcast_object_list(pieces)  # as if all had read the same files
    resumed = fully_shard(net())
    third = Adam(resumed.parameters(), lr=0.05)
    set_model_state(resumed, pieces[0])  # type: ignore[arg-type]
    set_optimizer_state(resumed, third, pieces[1], pieces[2])  # type: ignore[arg-type]
    steps(sharded, other, 3, 6)
    steps(resumed, third, 3, 6)
    first, second = model_state(sharded, everywhere=True), model_state(resumed, everywhere=True)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
