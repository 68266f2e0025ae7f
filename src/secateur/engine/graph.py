"""A network as a list of operations: no code, no pickle, and it runs by itself."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from secateur.core.errors import InputError

SIZES: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
    "pow": operator.pow,
    "truediv": operator.truediv,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "getitem": operator.getitem,
    "trunc": math.trunc,
    "ceil": math.ceil,
    "floor": math.floor,
    "sym_max": max,
    "sym_min": min,
    "sym_int": int,
    "sym_float": float,
    "sym_not": operator.not_,
}
"""Arithmetic of sizes, and the elements of tuples."""


@dataclass(frozen=True)
class Ref:
    """The value of an earlier node, an input or a weight, by name."""

    name: str


@dataclass(frozen=True)
class Node:
    """One operation.

    op: `aten.relu.default`, a function of sizes (`size.mul`), or `layer` or
    `recurrence` (`Graph.layers`). shape:
    the output's, with symbols for what may vary, as text; empty where it is no single tensor.
    """

    name: str
    op: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[str, ...] = ()

    @property
    def refs(self) -> tuple[str, ...]:
        """The names that the arguments refer to, in order, repeated if they are."""
        return tuple(refs((self.args, self.kwargs)))

    def with_refs(self, names: Mapping[str, str]) -> Node:
        """The same node with other names in its arguments."""
        args, kwargs = substitute((self.args, self.kwargs), lambda n: Ref(names.get(n, n)))
        return replace(self, args=args, kwargs=kwargs)


@dataclass(frozen=True)
class Graph:
    """Inputs, weights, operations in an order that runs, and outputs.

    weights: parameters, buffers and constants. outputs: a flat tuple of `Ref`s and constants.
    signature: how calls are flattened and outputs put together, as text of `torch.utils._pytree`.
    limits: by input and dimension, the size that it must have, where it is only one.
    layers: what the `layer` nodes do, by name.
    """

    inputs: tuple[str, ...]
    weights: Mapping[str, Any]
    nodes: tuple[Node, ...]
    outputs: tuple[Any, ...]
    signature: tuple[str, str] = ("", "")
    layers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def uses(self) -> dict[str, int]:
        """How often each name is referred to; outputs count."""
        found: dict[str, int] = {}
        for name in [*(n for node in self.nodes for n in node.refs), *refs(self.outputs)]:
            found[name] = found.get(name, 0) + 1
        return found

    def alive(self) -> Graph:
        """Without operations and weights that nothing uses."""
        needed = set(refs(self.outputs))
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.refs)
                kept.append(node)
        names = {node.name for node in kept}
        return replace(
            self,
            nodes=tuple(reversed(kept)),
            weights={name: value for name, value in self.weights.items() if name in needed},
            layers={name: layer for name, layer in self.layers.items() if name in names},
        )


def refs(value: Any) -> Iterator[str]:
    """The names in nested arguments."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from refs(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from refs(item)


def substitute(value: Any, by: Callable[[str], Any]) -> Any:
    """Nested arguments with something else for every `Ref`.

    Example:
        >>> substitute((Ref("a"), [Ref("b"), 3]), {"a": 1, "b": 2}.get)
        (1, [2, 3])
    """
    if isinstance(value, Ref):
        return by(value.name)
    if isinstance(value, (list, tuple)):
        return type(value)(substitute(item, by) for item in value)
    if isinstance(value, Mapping):
        return {key: substitute(item, by) for key, item in value.items()}
    return value


def function(op: str) -> Callable[..., Any]:
    """What runs an operation that is no layer.

    `view` copies where it must, because values may lie in memory in another order than they did.

    Raises:
        InputError: There is no such operation.
    """
    space, _, rest = op.partition(".")
    if space == "size" and rest in SIZES:
        return SIZES[rest]
    name, _, overload = rest.partition(".")
    if space == "aten" and name in ("view", "_unsafe_view") and overload == "default":
        return torch.ops.aten.reshape.default
    packet = getattr(torch.ops.aten, name, None) if space == "aten" and name else None
    found = getattr(packet, overload, None) if packet is not None and overload else None
    if not isinstance(found, torch._ops.OpOverload):
        raise InputError(f"operation {op!a} is not known to torch {torch.__version__}")
    return found


def run(
    graph: Graph,
    inputs: Sequence[Any],
    weights: Mapping[str, Any],
    layer: Callable[[str, list[Any]], Any],
    seen: Callable[[str, Any], None] | None = None,
) -> list[Any]:
    """Run operation after operation through torch; values are forgotten when they are not needed.

    layer: what runs a layer node, from its name and arguments. seen: is told of every value.
    """
    left = graph.uses
    values: dict[str, Any] = {**weights, **dict(zip(graph.inputs, inputs, strict=True))}
    for node in graph.nodes:
        args, kwargs = substitute((node.args, node.kwargs), values.__getitem__)
        if node.op in ("layer", "recurrence"):
            values[node.name] = layer(node.name, list(args))
        else:
            values[node.name] = function(node.op)(*args, **kwargs)
        if seen is not None:
            seen(node.name, values[node.name])
        for name in node.refs:
            left[name] -= 1
            if not left[name]:
                del values[name]
    return [substitute(item, values.__getitem__) for item in graph.outputs]
