"""Trains under torchrun, with DDP or FSDP2, and writes what came out of it.

Usage: several.py ddp|fsdp RECIPE FILE
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from training import batches, net

import secateur as sc

RECIPES = {
    "gmp": sc.presets.gmp(0.8, end=6, every=2),
    "uniform": sc.presets.gmp(0.8, end=6, every=2, allocate="uniform"),
    "rigl": sc.presets.rigl(0.8, every=2, end=8),
    "set": sc.presets.set(0.8, every=2, end=8),
    "snfs": sc.presets.snfs(0.8, every=2, end=8),
    "movement": sc.presets.movement(0.8, end=6, every=2),
    "dpf": sc.presets.dpf(0.8, end=6, every=2),
    "dns": sc.presets.dns(0.8, end=6, every=2),
    "pdp": sc.presets.pdp(0.8, end=6, every=2, temperature=1e-2),
    "str_": sc.presets.str_(start=-4.0, decay=1.0, every=2),
    "topkast": sc.presets.topkast(0.8, every=2),
    "sr_ste": sc.presets.sr_ste(2, 4, every=2),
    "adaptive": sc.Recipe(
        budget=sc.Sparsity(0.9),
        schedule=sc.Adaptive(lambda model: 1.0, tolerance=0.1, every=2, by=0.5),
    ),
}
LOOKS = {
    "snip": sc.Recipe(criterion="snip", budget=sc.Sparsity(0.8)),
    "wanda": sc.Recipe(criterion="wanda", budget=sc.Sparsity(0.8)),
}
"""What looks at data before the first step: of every process at its part."""


def run(way: str, name: str, rank: int = 0, size: int = 1) -> dict[str, object]:
    """Ten steps; every process takes its part of each batch."""
    model: nn.Module = net(dtype=torch.float64)
    trained = model
    if way == "ddp":
        trained = nn.parallel.DistributedDataParallel(model)
    elif way == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (size,))
        for layer in (model[0], model[3]):  # type: ignore[index]
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = []
    for x, y in islice(batches(10, dtype=torch.float64), 10):
        share = slice(rank * len(x) // size, (rank + 1) * len(x) // size)
        data.append((x[share], y[share]))
    if name in LOOKS:
        session = sc.attach(trained, optimizer, LOOKS[name], data=data[:2])
    else:
        session = sc.attach(trained, optimizer, RECIPES[name])
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained(x), y).backward()
        optimizer.step()
    events = [{k: v for k, v in e.items() if k != "reason"} for e in session.events]
    state = session.state_dict()["weights"]
    sizes = {key: entry["mask"].numel() for key, entry in state.items()}
    session.finish()
    weights = {
        key: (p.full_tensor() if way == "fsdp" else p).detach().clone()  # type: ignore[operator]
        for key, p in model.named_parameters()
    }
    return {"weights": weights, "events": events, "sizes": sizes}


def main() -> None:
    way, names, folder = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    for name in names:
        torch.save(run(way, name, rank, size), folder / f"{name}{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
