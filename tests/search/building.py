"""Builders for the tests: plan, copy, cut, and batch-norm statistics estimated anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.allocate.decide import Decider
from secateur.apply.cut import replay
from secateur.core.batches import Call, as_call
from secateur.core.budget import Budget
from secateur.core.plan import Plan
from secateur.core.tensors import light_copy, own_memory
from secateur.demo.data import Digits, digits, trained
from secateur.graph.analyze import analyze
from secateur.measure.cost import Amounts
from secateur.search.trial import Trial
from secateur.units import Channel


@dataclass
class Builder:
    """Builds real trials of a model, and remembers for which budgets."""

    model: nn.Module
    example: Any
    images: Tensor | None = None
    asked: list[Budget] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, budget: Budget) -> Trial:
        self.asked.append(budget)
        return self.cut(sc.plan(self.model, self.example, budget=budget, **self.arguments))

    def keep(self, counts: Mapping[str, int]) -> Trial:
        """Cut only the sites named, to those counts."""
        graph = analyze(self.model, self.example)
        decider = Decider.prepare(self.model, graph, unit=Channel(), criterion="magnitude")
        return self.cut(decider.keeping(counts))

    def cut(self, plan: Plan) -> Trial:
        """A repaired copy."""
        twin = light_copy(self.model)
        replay(twin, plan)
        own_memory(twin, self.model)
        if self.images is not None:
            recalibrate(twin, self.images)
        before, after = (
            Amounts(**{name: pair[side] for name, pair in plan.predicted.items()})
            for side in (0, 1)
        )
        return Trial(twin, plan, after, before)


def recalibrate(model: nn.Module, images: Tensor) -> None:
    """The cumulative average of the batch-norm statistics over some images."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for part in images.split(128):
            model(part)
    model.eval()


@dataclass
class Case:
    """A trained network on real digits."""

    model: nn.Module
    data: Digits
    build: Builder
    call: Call

    def right(self, model: nn.Module) -> Tensor:
        """1 or 0 for each of the 450 images that it was not trained on."""
        data = self.data
        return (model(data.held_out_images).argmax(1) == data.held_out_labels).float()

    def accuracy(self, model: nn.Module) -> float:
        """The same as one number."""
        return self.right(model).mean().item()


def digits_case() -> Case:
    """The demo's network and data."""
    model, data = trained(), digits()
    example = data.images[:2]
    return Case(model, data, Builder(model, example, data.images[:512]), as_call(model, example))


def wide_case(width: int = 512) -> tuple[nn.Module, Builder, Call]:
    """A network whose time is all in matrix products, so that half of it is clearly faster."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10),
    ).eval()  # fmt: skip
    example = torch.randn(256, 32)
    return model, Builder(model, example), as_call(model, example)


Evaluate = Callable[[nn.Module], Any]
