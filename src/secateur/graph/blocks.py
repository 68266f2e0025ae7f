"""Finds residual blocks: modules that compute x + f(x), whose removal leaves the identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import nn

from secateur.graph.flow import Flow
from secateur.graph.graph import Block


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
        return origin == "relu" and any(_reaches(flow, p, source) for p in parents)
    return kind in ("sum", "same") and _reaches(flow, result, source)


def _reaches(flow: Flow, start: int, target: int) -> bool:
    """Whether `target` is a summand of `start`, through sums and copies only."""
    seen: set[int] = set()
    stack: list[int] = [start]
    summed = False
    while stack:
        current = stack.pop()
        if current == target:
            return summed
        if current in seen:
            continue
        seen.add(current)
        kind, parents = flow.parents.get(current, ("", ()))
        if kind in ("sum", "same"):
            summed = summed or kind == "sum"
            stack.extend(_unique(parents))
    return False


def _unique(values: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(values))
