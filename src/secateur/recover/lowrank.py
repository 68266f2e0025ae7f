"""Low-rank corrections, trained beside frozen weights and merged into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.core.errors import InputError, RecipeError
from secateur.recover.job import Job
from secateur.recover.training import Training, said


@dataclass(frozen=True)
class LowRank:
    """Train a correction of low rank to every weight matrix, and merge it into the weight.

    While training, a weight `[out, k]` is `W + (B A) * mask` with `B` `[out, rank]` starting at
    zero; only these factors are trained, so that gradients and optimizer state are small. The
    mask, where there is one, keeps zeros zero. Afterwards the weights are plain parameters again.
    Convolutions and linear layers are corrected; recurrent layers, embeddings and
    weights that are used in two places stay.

    Args:
        rank: Of the corrections.
        train: The training, such as `Distill(epochs=1)`.

    Example:
        >>> x = torch.randn(200, 3)
        >>> data = [(part, part.sum(1, keepdim=True)) for part in x.split(20)]
        >>> net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> low = sc.LowRank(2, sc.Finetune(epochs=3, lr=0.01))
        >>> print(*sc.prune(net, data=data, recover=[low], latency=False).repairs)
        low-rank corrections of 2 weights: held-out loss ... -> ... after 27 of 27 steps

    Papers: Hu et al., LoRA, ICLR 2022; Ma et al., LLM-Pruner, NeurIPS 2023; Zimmer et al., PERP,
    2023 (merging under a mask).
    """

    rank: int
    train: Training = field(kw_only=False)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        whole = isinstance(self.rank, int) and not isinstance(self.rank, bool)
        if not whole or self.rank < 1:
            raise RecipeError(f"LowRank({self.rank!r}): expected an integer of at least 1")
        if not isinstance(self.train, Training):
            raise RecipeError(
                f"LowRank(train={self.train!r}): expected a training",
                hint="write LowRank(8, Distill(epochs=1))",
            )

    def check(self, data: Any) -> None:
        """Refuse what can be known to fail before anything is computed."""
        self.train.check(data)

    def run(self, job: Job) -> None:
        """Train the corrections and merge them; what does not help is not merged."""
        uses = Counter(p for _, p in job.small.named_parameters(remove_duplicate=False))
        places = [
            (name, module)
            for name, module in job.small.named_modules()
            if _is_corrected(module) and uses[module.weight] == 1  # type: ignore[index]
        ]
        if not places:
            raise InputError(
                "there is no linear layer and no convolution to correct",
                hint="use Finetune or Distill",
            )
        trainer = self.train.trainer(job)
        wanted = {p: p.requires_grad for p in job.small.parameters()}
        try:
            with self._corrected(job, places):
                found = trainer.fit(job.small)
        finally:
            for parameter, flag in wanted.items():
                parameter.requires_grad_(flag)
        count = len(places)
        job.note(f"low-rank corrections of {count} weights: {said(found)}")
        job.refresh()

    @contextmanager
    def _corrected(self, job: Job, places: list[tuple[str, nn.Module]]) -> Iterator[None]:
        """Everything frozen but the corrections inside; merged at the end."""
        done: list[tuple[nn.Module, list[str]]] = []
        generator = torch.Generator().manual_seed(job.seed)
        try:
            job.small.requires_grad_(False)
            for name, module in places:
                mask = (job.masks or {}).get(f"{name}.weight" if name else "weight")
                correction = _Correction(module.weight, self.rank, mask, generator)  # type: ignore[arg-type]
                order = list(module._parameters)
                parametrize.register_parametrization(module, "weight", correction, unsafe=True)
                done.append((module, order))
            yield
        finally:
            for module, order in done:
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
                for key in order:  # the weight comes back as the last one
                    module._parameters[key] = module._parameters.pop(key)


class _Correction(nn.Module):
    """`W + (B A) * mask`, of a weight of any shape as `[out, k]`."""

    def __init__(
        self, weight: Tensor, rank: int, mask: Tensor | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        out, k = len(weight), weight[0].numel()
        rank = min(rank, out, k)
        first = torch.randn(rank, k, generator=generator) / k**0.5
        self.a = nn.Parameter(first.to(weight))
        self.b = nn.Parameter(torch.zeros(out, rank).to(weight))
        self.register_buffer("mask", None if mask is None else mask.to(weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        change = (self.b @ self.a).view_as(weight)
        return weight + (change if self.mask is None else change * self.mask)


def _is_corrected(module: nn.Module) -> bool:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    flipped = type(module).__name__ == "Conv1D" and isinstance(
        getattr(module, "weight", None), Tensor
    )
    return (isinstance(module, kinds) or flipped) and not parametrize.is_parametrized(module)
