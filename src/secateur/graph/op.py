"""One recorded operation, as rules see it, and the registry of rules.

A rule is a function `rule(op)` that names the axes of the outputs in terms of those of the inputs,
with the few verbs below. Rules are keyed by ATen overload packet (all overloads at once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from secateur.core.plan import Reason
from secateur.graph.axes import GEOMETRY, Axis, fixed, unify

if TYPE_CHECKING:
    from secateur.graph.trace import Trace


class _Aten:
    """`torch.ops.aten`, with None for what this version of torch does not have."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.ops.aten, name, None)


aten = _Aten()


def atens(names: str) -> list[Any]:
    """The operations of ATen with these names, as far as this version of torch has them."""
    return [packet for packet in (getattr(aten, name) for name in names.split()) if packet]


Rule = Callable[["Op"], None]
RULES: dict[Any, Rule] = {}


def rule(*packets: Any) -> Callable[[Rule], Rule]:
    """Teach Secateur an operation: `@rule(torch.ops.mylib.op)`.

    The function gets an `Op` and must give axes to every output. It should raise nothing; if it
    does, or where no rule exists, the axes of all inputs and outputs freeze.

    Example:
        >>> import torch
        >>> @rule(torch.ops.aten.fliplr)
        ... def fliplr(op):
        ...     rows, columns, *rest = op.axes(op.args["self"])
        ...     op.freeze(columns, "fliplr reverses it")
        ...     op.give(op.out, [rows, columns, *rest])
    """

    def register(function: Rule) -> Rule:
        for packet in filter(None, packets):
            RULES[getattr(packet, "overloadpacket", packet)] = function
        return function

    return register


class Op:
    """One executed operation: `args` by schema name, `out` the result, and the verbs for rules."""

    def __init__(
        self,
        trace: Trace,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        out: Any,
        index: int,
    ) -> None:
        self.trace = trace
        self.func = func
        self.out = out
        self.index = index
        self.args: dict[str, Any] = {}
        for given, parameter in zip(args, func._schema.arguments, strict=False):
            self.args[parameter.name] = given
        self.args.update(kwargs)

    def get(self, name: str, default: Any = None) -> Any:
        """An argument by its schema name, or the schema's default."""
        if name in self.args:
            return self.args[name]
        for parameter in self.func._schema.arguments:
            if parameter.name == name and parameter.has_default_value():
                return parameter.default_value
        return default

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [leaf for leaf in tree_leaves(self.args) if isinstance(leaf, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        """All tensors of the result."""
        return [leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor)]

    def axes(self, tensor: Tensor) -> list[Axis]:
        """The axes of a tensor, one a dimension."""
        return self.trace.axes(tensor)

    def give(self, tensor: Tensor, axes: Iterable[Axis]) -> None:
        """Name the axes of an output."""
        self.trace.give(tensor, list(axes))

    def freeze(self, axis: Axis, text: str) -> None:
        """Forbid removal along an axis; file and line are added."""
        if axis.free:
            axis.freeze(self.reason(text))

    def reason(self, text: str) -> Reason:
        """A reason that names this operation and the user's line."""
        return self.trace.reason(text, str(self.func))

    def unify(self, a: Axis, b: Axis) -> None:
        """Make two axes the same."""
        unify(a, b)

    def fixed(self, size: int, text: str) -> Axis:
        """A new axis that can never be cut (a spatial size, a literal)."""
        return fixed(size, self.reason(text) if size != 1 else None)

    def spatial(self, size: int) -> Axis:
        """A new axis that follows the input's geometry."""
        return fixed(size, _SPATIAL)

    def fresh(self, size: int, text: str) -> Axis:
        """A new axis that repeats something, sized by the user's code or to fit a partner.

        Inside a Python-level torch call the handler in functions.py knows the size, or torch took
        it from a partner's shape; elsewhere (scripted code) nobody can tell, and it freezes.
        """
        axis = Axis(size)
        if size > 1 and not self.trace.inside:
            self.trace.pending[axis] = self.reason(text)
        return axis

    def contract(
        self, tensor: Tensor, dim: int, weight: Tensor | None = None, weight_dim: int = 0
    ) -> None:
        """Say that `tensor`'s dimension is multiplied with something and summed away."""
        self.trace.contract(self.index, tensor, dim, self.args)
        for operand, d in ((tensor, dim), (weight, weight_dim)):
            if operand is not None:
                self.trace.consumes(operand, d)

    def select(self, name: str, dims: Iterable[int], *, linear: bool = False) -> None:
        """Say that argument `name` is reduced over `dims` (mean, max, softmax, ...)."""
        tensor = self.args[name]
        axes = self.axes(tensor)
        for d in dims:
            if axes[d].free:
                axes[d].mark("statistical")
                self.trace.restrict(self.index, ("select", name, d, axes[d]))

    def several(self, axis: Axis) -> None:
        """Say that statistics over `axis` need two indices at least."""
        self.trace.equate(("lt", 1, ("count", axis)), 1, "statistics of more than one value")

    def normalise(self, dim: int) -> None:
        """Say that statistics run over a dimension of `input`."""
        axis = self.axes(self.args["input"])[dim]
        if axis.free:
            axis.mark("statistical")
            self.several(axis)
            self.trace.restrict(self.index, ("norm", "input", dim, axis))

    def macs(self, factor: int, axes: Iterable[Axis]) -> None:
        """Count multiply-accumulates: factor times the product of the axes' counts."""
        self.trace.count_macs(str(self.func._overloadpacket), factor, list(axes))


_SPATIAL = Reason("follows the geometry of the input", GEOMETRY)


def normal_dim(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim if dim >= 0 else dim + max(rank, 1)


def normal_dims(dims: Any, rank: int) -> list[int]:
    """A list of dimensions counted from the front; None or [] means all."""
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(rank))
    return [normal_dim(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]


__all__ = ["GEOMETRY", "RULES", "Op", "Rule", "aten", "atens", "normal_dim", "normal_dims", "rule"]
