"""Sums and copies of values, by number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur.graph.flow import Flow
from secateur.graph.trace import Trace, recording


class Net(nn.Module):
    def __init__(self, code: Any) -> None:
        super().__init__()
        self.w, self.code = nn.Parameter(torch.ones(3)), code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self.w, x)


def flow(code: Any) -> tuple[Flow, int, int]:
    model, x = Net(code), torch.zeros(2, 3)
    trace = Trace(model)
    with recording(trace):
        out = model(x)
    return trace.flow, trace.flow.id(x), trace.flow.id(out)


def test_sums_know_their_summands() -> None:
    found, x, out = flow(lambda w, x: x + x.exp())
    kind, parents = found.parents[out]
    assert kind == "sum" and x in parents and len(parents) == 2


def test_copies_and_views_know_their_source() -> None:
    for code in (lambda w, x: x.clone(), lambda w, x: x.view(3, 2), lambda w, x: x.unsqueeze(0)):
        found, x, out = flow(code)
        assert found.parents[out] == ("same", (x,))


def test_other_operations_make_new_values() -> None:
    for code in (lambda w, x: x * 2, lambda w, x: x.t(), lambda w, x: torch.add(x, x, alpha=2)):
        found, x, out = flow(code)
        assert out != x and out not in found.parents


def test_in_place_operations_make_new_values_of_one_tensor() -> None:
    def code(w: Tensor, x: Tensor) -> Tensor:
        return x.clone().mul_(2)

    found, x, out = flow(code)
    assert out not in found.parents and out != x


def test_values_are_numbered_once() -> None:
    found, tensor = Flow(), torch.zeros(1)
    first = found.id(tensor)
    assert found.id(tensor) == first and found.id(tensor, new=True) != first
    assert found.id(torch.zeros(1)) > first
