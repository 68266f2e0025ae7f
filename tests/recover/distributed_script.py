"""Run by `test_distributed`: one prune with training, in as many processes as there are."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD

import secateur as sc

warnings.simplefilter("error")
torch.set_num_threads(1)


def main(folder: Path, name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 3))
    x = torch.randn(220, 4)
    data = [(part, part[:, :3].argmax(1)) for part in x.split(10)]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    events: list[dict[str, object]] = []
    distill = sc.Distill(
        epochs=3, alpha=0.1, accumulate=2 // world,
        optimizer=lambda p: SGD(p, lr=0.05, momentum=0.9),
        checkpoint=folder / f"{name}-checkpoint", on_event=events.append,
    )  # fmt: skip

    def prune() -> sc.Result:
        return sc.prune(
            net, data=data, budget=sc.Params("60%"), schedule=sc.Steps(2), latency=False,
            recover=[distill],
        )  # fmt: skip

    result = prune()
    assert len(events) == (2 * 5 if rank == 0 else 0)
    again = prune().model.state_dict()  # finds both trainings done
    assert all(torch.equal(value, again[key]) for key, value in result.model.state_dict().items())
    assert len(events) == (2 * 5 + 2 * 2 if rank == 0 else 0)
    save_file(
        dict(result.model.state_dict()), folder / f"{name}-{rank}.safetensors",
        metadata={"notes": "\n".join(result.repairs)},
    )  # fmt: skip
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
