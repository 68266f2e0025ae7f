"""Small models for the analysis, and what is asked of it most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.apply.surgery import cut_verified
from secateur.core.batches import as_call
from secateur.core.plan import Choice, Plan, Reason, fingerprint
from secateur.graph import Graph, analyze

Code = Callable[[Any, Tensor], Tensor]


class Between(nn.Module):
    """A linear layer `a`, some code of a test, a linear layer `b`; sizes as attributes."""

    def __init__(self, code: Code, inner: int = 8, out: int = 8, **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, inner), nn.Linear(out, 3)
        self.code = code
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.code(self, self.a(x)))


def free(graph: Graph) -> dict[str, int]:
    """Free axes by name, with their sizes; those of a tie with one level cannot move."""
    moving = {name for tie in graph.ties if len(tie.levels) > 1 for name in tie.ratios}
    return {a.name: a.n for a in graph.axes.values() if a.frozen is None and a.name in moving}


def frozen(graph: Graph, name: str) -> Reason:
    """Why an axis is frozen."""
    reason = graph.axes[name].frozen
    assert reason is not None, f"{name} is free"
    return reason


def tied(graph: Graph) -> list[dict[str, int]]:
    """The ties of more than one axis, with their ratios."""
    return [dict(tie.ratios) for tie in graph.ties if len(tie.ratios) > 1]


def attributes(graph: Graph) -> dict[str, str]:
    """Which attribute follows which layout, as text."""
    return {f"{a.module}.{a.path}".lstrip("."): str(a.layout.to_json()) for a in graph.attributes}


def line(function: Callable[..., Any], offset: int = 0) -> str:
    """`folder/file.py:line` of a function of a test, as reasons show it."""
    code = function.__code__
    folder, name = code.co_filename.split("/")[-2:]
    return f"{folder}/{name}:{code.co_firstlineno + offset}"


def plan_for(model: nn.Module, graph: Graph, levels: Mapping[str, int], seed: int = 0) -> Plan:
    """A plan that keeps random indices: site name -> kept count."""
    rng = np.random.default_rng(seed)
    sites = {
        name: Choice(graph.axes[name].n, np.sort(rng.permutation(graph.axes[name].n)[:kept]))
        for name, kept in levels.items()
    }
    return Plan(fingerprint(model), sites, graph.layouts, graph.attributes)


def cuts(model: nn.Module, example: Any, graph: Graph | None = None) -> dict[str, int]:
    """Cut every tie to a middle level, one by one and all together, each verified and undone.

    Returns what the last one kept.
    """
    graph = graph or analyze(model, example)
    ties = [tie for tie in graph.ties if len(tie.levels) > 1]
    chosen = [
        {k: r * tie.levels[(len(tie.levels) - 1) // 2] for k, r in tie.ratios.items()}
        for tie in ties
    ]
    together = {name: kept for each in chosen for name, kept in each.items()}
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for levels in [*chosen, together] if together else []:
        plan = plan_for(model, graph, levels)
        edit, verification = cut_verified(model, as_call(model, example), graph, plan)
        assert verification.ok
        edit.undo()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    return together
