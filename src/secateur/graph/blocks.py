"""Finds residual blocks: modules that compute x + f(x), whose removal leaves the identity."""

from __future__ import annotations

from collections import Counter

from torch import nn

from secateur.graph.flow import Flow
from secateur.graph.graph import Block

_MOST_STEPS = 10_000


def residual_blocks(model: nn.Module, flow: Flow) -> list[Block]:
    """Innermost modules, called once, whose output is their input plus something.

    The sum may be followed by a relu when the input comes out of a relu itself (ResNet), because
    relu leaves it as it is.
    """
    calls = Counter(name for name, *_ in flow.calls)
    found = [
        name
        for name, source, result, _ in flow.calls
        if name and calls[name] == 1 and source != result and _is_residual(flow, source, result)
    ]
    candidates = set(found)
    tuples = {name for name, _, _, as_tuple in flow.calls if as_tuple}
    modules = dict(model.named_modules())
    return [
        Block(name, name in tuples)
        for name in found
        if any(True for _ in modules[name].parameters())
        and not any(other.startswith(name + ".") for other in candidates)
    ]


def _is_residual(flow: Flow, source: int, result: int) -> bool:
    kind, parents = flow.parents.get(result, ("", ()))
    if kind == "relu":
        origin, _ = flow.parents.get(source, ("", ()))
        return origin == "relu" and len(parents) == 1 and _times(flow, parents[0], source) == 1
    return _times(flow, result, source) == 1


def _times(flow: Flow, result: int, source: int) -> int:
    """How often `source` is a summand of `result`, through sums and copies only."""
    total = 0
    seen = 0
    stack = [result]
    while stack and seen < _MOST_STEPS:
        seen += 1
        current = stack.pop()
        if current == source:
            total += 1
            continue
        kind, parents = flow.parents.get(current, ("", ()))
        if kind in ("sum", "same"):
            stack.extend(parents)
    return total
