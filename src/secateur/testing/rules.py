"""Does a rule tell the truth about its operation? By brute force."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.apply.cut import replay
from secateur.apply.reference import run_reference
from secateur.apply.verify import compare
from secateur.core.batches import Call, tensors_in
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Mask, Product
from secateur.core.plan import Choice, Plan
from secateur.core.site import Tie
from secateur.graph.analyze import _Builder
from secateur.graph.attributes import AttributeTracer
from secateur.graph.axes import Axis
from secateur.graph.graph import Graph
from secateur.graph.rules.reduction import Positions
from secateur.graph.ties import solve
from secateur.graph.trace import Trace, decomposed, recording


def check_rule(op: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Check by brute force what Secateur believes about an operation's axes.

    The operation runs once on the example arguments under the tracer. Then every axis that its rule
    leaves free is cut, several times at random: the arguments are cut, the operation runs on them,
    and its result must be the full result, cut by the output's axes (where the operation sums or
    normalises over a cut axis: the result over what is kept). Integers among the arguments are
    sizes as in a model: they follow the axis they are bound to, and pin it where they are not.

    op: a Python function, or an operation of `torch.ops` whose rule is then checked alone.

    Returns:
        What was believed, as a line: every free axis is a letter, a number is a size that cannot
        change, `*` makes products and `+` concatenations. After `|` come axes that keep the same
        share of their indices.

    Raises:
        AssertionError: There is no rule, it does not cover the call, or it is wrong.

    Example:
        >>> check_rule(torch.mm, torch.randn(3, 4), torch.randn(4, 5))
        'a b, b c -> a c'
        >>> check_rule(torch.Tensor.view, torch.randn(3, 8), 3, 2, 4)
        'a (b*c) -> a b c'
        >>> check_rule(lambda x: x.view(3, 2, -1), torch.randn(3, 8))  # literals cannot follow
        '3 (2*a) -> 3 2 a'
        >>> check_rule(lambda x: x.chunk(2, dim=1), torch.randn(3, 8))
        'a (b+c) -> a b, a c | b c'
    """
    with torch.random.fork_rng(devices=[]):
        return _check(_Case(op, args, kwargs))


class _Case(nn.Module):
    """A model whose parameters and buffers are the tensors among the arguments of one call."""

    def __init__(self, op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.op = op
        self.label = getattr(op, "__name__", None) or str(op)
        self.direct = isinstance(op, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
        self.order: tuple[str, ...] = ()
        seen: dict[int, _Name] = {}
        self.args = [self._stored(value, str(k), seen) for k, value in enumerate(args)]
        self.kwargs = {key: self._stored(value, key, seen) for key, value in kwargs.items()}
        self.changed: frozenset[str] = frozenset()
        self.changed = self._written()

    def _stored(self, value: Any, name: str, seen: dict[int, _Name]) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in seen:
                seen[id(value)] = _Name(f"tensor_{name}")
                self._adopt(seen[id(value)], value.detach().clone())
            return seen[id(value)]
        if type(value) in (list, tuple):
            return type(value)([self._stored(v, f"{name}_{k}", seen) for k, v in enumerate(value)])
        return value

    def _adopt(self, name: str, value: Tensor) -> None:
        self.order += (name,)
        if value.is_floating_point() or value.is_complex():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))
        else:
            self.register_buffer(name, value)

    def _written(self) -> frozenset[str]:
        """The arguments that the operation writes to; it gets copies of them."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        old = {name: tensor._version for name, tensor in tensors.items()}
        with torch.no_grad():
            self()
        found = frozenset(name for name, t in tensors.items() if t._version != old[name])
        for name in found:
            tensors[name].data = before[name]
        return found

    def _given(self, value: Any) -> Any:
        if type(value) is _Name:
            tensor = getattr(self, value)
            return tensor.clone() if value in self.changed else tensor
        if type(value) in (list, tuple):
            return type(value)([self._given(item) for item in value])
        return value

    def forward(self) -> Any:
        """Make the call; a single operation is kept from being taken apart."""
        args = [self._given(value) for value in self.args]
        kwargs = {key: self._given(value) for key, value in self.kwargs.items()}
        with torch._C._AutoDispatchBelowAutograd() if self.direct else nullcontext():
            return self.op(*args, **kwargs)


class _Name(str):
    """Stands for a tensor among the arguments."""

    __slots__ = ()


def _check(case: _Case) -> str:
    graph, outputs, repeatable = _analyzed(case)
    free = [tie for tie in graph.ties if len(tie.levels) > 1]
    rng = np.random.default_rng(0)
    picks: list[Callable[[Tie], int]] = [
        lambda tie: tie.levels[0],
        lambda tie: tie.levels[-2],
        lambda tie: int(rng.choice(tie.levels[:-1])),
    ]
    groups = [*([tie] for tie in free), *([free] * (len(free) > 1))]
    for ties, pick in product(groups, picks):
        keeps: dict[str, Mask] = {}
        for tie in ties:
            level = pick(tie)
            for name, ratio in tie.ratios.items():
                keeps[name] = np.zeros(graph.axes[name].n, dtype=np.bool_)
                keeps[name][rng.permutation(len(keeps[name]))[: ratio * level]] = True
        _compare(case, graph, outputs, keeps, repeatable)
    inputs = ", ".join(_line(graph.layouts[name]) for name in case.order)
    results = ", ".join("?" if out is None else _line(out) for out in outputs)
    tied = sorted(" ".join(sorted(tie.ratios)) for tie in graph.ties if len(tie.ratios) > 1)
    return " | ".join([f"{inputs} -> {results}", *tied])


Outputs = list[tuple[Layout, ...] | None]


def _analyzed(case: _Case) -> tuple[Graph, Outputs, bool]:
    trace, slots = Trace(case), AttributeTracer()
    torch.default_generator.manual_seed(0)
    with slots.traced(case), recording(trace):
        out = case()
    results, first = list(tensors_in(out)), _copies(out)
    for text in trace.unknown.values():
        raise AssertionError(f"{case.label}: {text}")
    axes = [None if isinstance(trace.watched(t), Positions) else trace.axes(t) for t in results]
    for axis, reason in trace.pending.items():
        axis.freeze(reason)
    everything = [trace.axes(trace.tensors[name]) for name in case.order]
    listed = [axis for dims in [*everything, *axes] for axis in dims or ()]
    leaves = dict.fromkeys(leaf for axis in listed for leaf in axis.leaves())
    free = {leaf for leaf in leaves if leaf.frozen is None and leaf.size > 1}
    solution = solve(trace.equations.values(), slots.slots, free)
    kept = {leaf for members, _ in solution.ties for leaf in members}
    names = dict(zip((leaf for leaf in leaves if leaf in kept), _letters(), strict=False))
    builder = _Builder(trace, slots, names, solution)
    graph = builder.build(case)
    torch.default_generator.manual_seed(1)
    with decomposed():
        again = _copies(case())
    same = all(_same(a, b) for a, b in zip(first, again, strict=True))
    repeatable = same and not any("empty" in name for name, _ in trace.ops)
    return graph, [None if dims is None else _layouts(builder, dims) for dims in axes], repeatable


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, 0, 0, equal_nan=True)


def _copies(out: Any) -> list[Tensor]:
    """The tensors of a result, which may be views of arguments that are about to change."""
    return [tensor.detach().clone() for tensor in tensors_in(out)]


def _layouts(builder: _Builder, axes: list[Axis]) -> tuple[Layout, ...]:
    return tuple(builder.layout(axis) for axis in axes)


def _letters() -> Iterator[str]:
    for k in range(26 * 26):
        yield "abcdefghijklmnopqrstuvwxyz"[k % 26] + (str(k // 26) if k > 25 else "")


def _line(layouts: tuple[Layout, ...]) -> str:
    return " ".join(map(_text, layouts)) or "()"


def _text(layout: Layout) -> str:
    if isinstance(layout, Leaf):
        return layout.name
    if isinstance(layout, (Product, Concat)):
        return f"({('*' if isinstance(layout, Product) else '+').join(map(_text, layout.parts))})"
    assert isinstance(layout, Fixed)
    return str(layout.n)


def _compare(
    case: _Case, graph: Graph, outputs: Outputs, keeps: Mapping[str, Mask], repeatable: bool
) -> None:
    kept = {name: np.flatnonzero(mask) for name, mask in keeps.items()}
    given = ", ".join(f"{name} keeping {index.tolist()}" for name, index in kept.items())
    torch.default_generator.manual_seed(0)
    reference = _copies(run_reference(case, Call((), {}), graph.replay, keeps))
    sites = {name: Choice(len(keeps[name]), index) for name, index in kept.items()}
    edit = replay(case, Plan("", sites, graph.layouts, graph.attributes), check=False)
    try:
        torch.default_generator.manual_seed(0)
        with decomposed():
            results = _copies(case())
    except Exception as error:
        message = f"{case.label} with {given}: the smaller call raises {error}"
        raise AssertionError(message) from error
    finally:
        edit.undo()
    for k, (layouts, full, small) in enumerate(zip(outputs, reference, results, strict=True)):
        if layouts is None:
            continue
        label = f"{case.label} with {given}: output {k}, believed to be {_line(layouts)},"
        expected = full
        for d, layout in enumerate(layouts):
            mask = layout.keep(keeps)
            if full.shape[d] == len(mask):  # else a statistic that the reference restricted itself
                index = torch.from_numpy(np.flatnonzero(mask)).to(full.device)
                expected = expected.index_select(d, index)
        if expected.shape != small.shape:
            shapes = f"{tuple(small.shape)} instead of {tuple(expected.shape)}"
            raise AssertionError(f"{label} has shape {shapes}")
        found = compare(expected, small)
        if repeatable and not found.ok:
            what = found.note or f"the relative difference is {found.difference:.2g}"
            raise AssertionError(f"{label} is wrong: {what}")
