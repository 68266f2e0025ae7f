"""Run by `test_distributed` on a GPU: one prune with training, as it is or under FSDP2."""

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

warnings.simplefilter("ignore")


def main(path: Path) -> None:
    kind = "none"
    if "LOCAL_RANK" in os.environ:
        from accelerate import Accelerator

        kind = Accelerator().distributed_type.value
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 3)).cuda()
    x = torch.randn(220, 4)
    data = [(part.cuda(), part[:, :3].argmax(1).cuda()) for part in x.split(10)]
    distill = sc.Distill(
        epochs=3, alpha=0.1, optimizer=lambda p: SGD(p, lr=0.05, momentum=0.9),
        checkpoint=path.with_suffix(".checkpoint"),
    )  # fmt: skip
    result = sc.prune(
        net, data=data, unit=sc.Weight(), budget=sc.Sparsity(0.5), latency=False,
        recover=[distill],
    )  # fmt: skip
    state = {name: tensor.cpu() for name, tensor in result.model.state_dict().items()}
    save_file(state, path, metadata={"kind": kind, "notes": "\n".join(result.repairs)})
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
