"""What 98 % sparse networks are trained with: ways that are compared on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler
from torch.optim.optimizer import Optimizer
from training_tasks import Task, noisy

import secateur as sc

SPARSITY = 0.98
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """A method and the settings of its optimizer; what is None is as the task has it.

    smooth: how much of a label goes to the other classes. noise: on the images, in their standard
    deviations. start, end: of the rise, as parts of all steps. cycles: magnitudes go in as many
    cuts, and the learning rate starts anew after each (Renda et al. 2020).
    """

    method: str = "gmp"
    rate: float | None = None
    decay: float | None = None
    adam: bool = False
    smooth: float = 0.0
    noise: float = 0.0
    start: float = 0.05
    end: float = 0.5
    cycles: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)

    def task(self, task: Task) -> Task:
        """The task with these settings."""
        given = {"rate": self.rate, "decay": self.decay}
        found = {key: value for key, value in given.items() if value is not None}
        made = replace(task, adam=self.adam, smooth=self.smooth, **found)
        return noisy(made, self.noise) if self.noise else made

    def schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Of the learning rate."""
        if not self.cycles:
            return CosineAnnealingLR(optimizer, steps)
        return CosineAnnealingWarmRestarts(optimizer, -(-steps // (self.cycles + 1)))

    def recipe(self, steps: int, seed: int) -> sc.Recipe | None:
        """What a session gets; None for a dense network."""
        start, end = int(self.start * steps), int(self.end * steps)
        how = {"start": start, "end": end, "seed": seed, **self.fields}
        if self.method == "dense":
            return None
        if self.cycles:
            each = -(-steps // (self.cycles + 1))
            left = [(1 - SPARSITY) ** ((k + 1) / self.cycles) for k in range(self.cycles)]
            parts = [(1 - part) / SPARSITY for part in left[:-1]] + [1.0]
            return sc.Recipe(
                budget=sc.Sparsity(SPARSITY), schedule=sc.Steps(parts, start=each, every=each),
                seed=seed,
            )  # fmt: skip
        if self.method in ("gmp", "dns"):
            how["every"] = max(20, steps // 200)
        if self.method == "ac_dc":
            del how["start"]
        return getattr(sc.presets, self.method)(SPARSITY, **how)


WAYS = {
    "dense": Way("dense"),
    "dense, weight decay 5e-4": Way("dense", decay=5e-4),
    "dense, weight decay 1e-3": Way("dense", decay=1e-3),
    "dense, weight decay 2e-3": Way("dense", decay=2e-3),
    "dense, labels smoothed": Way("dense", smooth=0.1),
    "dense, rate 0.1, labels smoothed": Way("dense", rate=0.1, smooth=0.1),
    "dense, rate 0.1, labels smoothed, noise": Way("dense", rate=0.1, smooth=0.1, noise=0.5),
    "dense, rate 0.1, labels smoothed, weight decay 1e-3": Way(
        "dense", rate=0.1, smooth=0.1, decay=1e-3
    ),
    "dense, Adam": Way("dense", adam=True, rate=1.2e-3, decay=0.0),
    "gmp": Way(),
    "gmp, weight decay 5e-4": Way(decay=5e-4),
    "gmp, weight decay 1e-3": Way(decay=1e-3),
    "gmp, weight decay 2e-3": Way(decay=2e-3),
    "gmp, weight decay 1e-3, to 35 %": Way(decay=1e-3, end=0.35),
    "gmp, weight decay 1e-3, to 75 %": Way(decay=1e-3, end=0.75),
    "gmp, weight decay 1e-3, LAMP": Way(decay=1e-3, fields={"allocate": "lamp"}),
    "gmp, weight decay 1e-3, uniform": Way(decay=1e-3, fields={"allocate": "uniform"}),
    "gmp, rate 0.1, labels smoothed, to 75 %": Way(rate=0.1, smooth=0.1, end=0.75),
    "gmp, Adam": Way(adam=True, rate=1.2e-3, decay=0.0),
    "GraNet, rate 0.1, labels smoothed": Way("granet", rate=0.1, smooth=0.1, end=0.75),
    "GraNet, rate 0.1, labels smoothed, noise": Way(
        "granet", rate=0.1, smooth=0.1, noise=0.5, end=0.6
    ),
    "GraNet, rate 0.1, labels smoothed, weight decay 1e-3": Way(
        "granet", rate=0.1, smooth=0.1, decay=1e-3, end=0.6
    ),
    "GraNet, weight decay 1e-3": Way("granet", end=0.6, decay=1e-3),
    "DNS, weight decay 1e-3": Way("dns", decay=1e-3),
    "AC/DC, weight decay 1e-3": Way("ac_dc", end=0.75, decay=1e-3),
    "5 cycles, weight decay 1e-3": Way(cycles=5, decay=1e-3),
    "5 cycles, Adam": Way(cycles=5, adam=True, rate=1.2e-3, decay=0.0),
}

LONGER = "LeNet-300-100, MNIST, longer"
CHOSEN = {LONGER: "GraNet, rate 0.1, labels smoothed, weight decay 1e-3"}
"""The sparse way of networks for which ways were compared elsewhere."""


def best(rows: Mapping[str, Row], task: str, dense: bool) -> str | None:
    """The way with the highest mean accuracy on validation images; None before there are any."""
    means: dict[str, list[float]] = {}
    for key, row in rows.items():
        part, name, way, _ = key.split(" | ")
        if part == "choice" and name == task and (WAYS[way].method == "dense") == dense:
            means.setdefault(way, []).append(row["accuracy"])
    return max(means, key=lambda way: sum(means[way]) / len(means[way]), default=None)


def settings(way: Way) -> tuple[Any, ...]:
    """Of the optimizer and the loss."""
    return way.rate, way.decay, way.adam, way.smooth, way.noise


def alike(way: str) -> str | None:
    """The dense way with the same optimizer, rate, weight decay and labels, if there is one."""
    wanted = WAYS[way]
    for name, other in WAYS.items():
        same = settings(other) == settings(wanted)
        if same and other.method == "dense":
            return name
    return None


def final(rows: Mapping[str, Row], task: str) -> list[str]:
    """The ways that are reported: the best sparse one, its dense likeness, and dense ones."""
    sparse = CHOSEN.get(task) or best(rows, task, dense=False)
    found = [] if sparse is None else [alike(sparse), best(rows, task, dense=True), "dense", sparse]
    return [way for way in dict.fromkeys(found) if way is not None]
