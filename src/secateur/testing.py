"""Contract tests for what you add to Secateur: rules, criteria, units and allocators.

Each check raises an AssertionError that says what was given and what went wrong; all are slow and
thorough, meant for a test suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.allocate import Allocation, allocate
from secateur.allocate import resolve as resolve_allocator
from secateur.allocate.decide import build_plan
from secateur.allocate.ladder import ladders
from secateur.apply.cut import replay
from secateur.apply.reference import run_reference
from secateur.apply.surgery import CutFailed, cut_verified
from secateur.apply.verify import compare
from secateur.core.batches import Call, tensors_in
from secateur.core.budget import Budget, MACs, Params, Sparsity
from secateur.core.errors import InputError
from secateur.core.layout import Concat, Fixed, Layout, Leaf, Mask, Product
from secateur.core.plan import Choice, Plan
from secateur.core.scope import Scope, skip
from secateur.core.site import Site, Slice, Tie
from secateur.graph.analyze import _Builder, analyze
from secateur.graph.attributes import AttributeTracer
from secateur.graph.axes import Axis
from secateur.graph.graph import Graph
from secateur.graph.rules.reduction import Positions
from secateur.graph.ties import solve
from secateur.graph.trace import Trace, decomposed, recording
from secateur.measure.cost import Cost
from secateur.score import Facts, resolve, scores
from secateur.units import Channel, Head, Layer, Unit, sites

__all__ = ["check_allocator", "check_criterion", "check_rule", "check_unit"]
_MASKS = 3


# --- rules ----------------------------------------------------------------------------------------


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
    case = _Case(op, args, kwargs)
    torch_state = torch.random.get_rng_state()
    try:
        return _check(case)
    finally:
        torch.random.set_rng_state(torch_state)


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
                seen[id(value)] = _Name(name)
                self._adopt(name, value.detach().clone())
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
        tensors = {name: tensor for name, tensor in self._tensors() if not tensor.is_inference()}
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        versions = {name: tensor._version for name, tensor in tensors.items()}
        with torch.no_grad():
            self()
        found = frozenset(name for name, tensor in tensors.items() if tensor._version != versions[name])
        for name in found:
            tensors[name].data = before[name]
        return found

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.named_parameters(), *self.named_buffers()]

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
    for ties in [*([tie] for tie in free for _ in range(_MASKS)), *([free] * (len(free) > 1))]:
        keeps: dict[str, Mask] = {}
        for tie in ties:
            level = int(rng.choice(tie.levels[:-1]))
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
    torch.manual_seed(0)
    with slots.traced(case), recording(trace):
        out = case()
    results, first = list(tensors_in(out)), _copies(out)
    for text in trace.unknown.values():
        raise AssertionError(f"{case.label}: {text}")
    axes = [None if isinstance(trace.watched(t), Positions) else trace.axes(t) for t in results]
    for axis, reason in trace.pending.items():
        axis.freeze(reason)
    everything = [trace.axes(trace.tensors[name]) for name in case.order]
    ordered = [leaf for dims in [*everything, *axes] for axis in dims or () for leaf in axis.leaves()]
    free = {leaf for leaf in ordered if leaf.frozen is None and leaf.size > 1}
    solution = solve(trace.equations.values(), slots.slots, free)
    kept = {leaf for members, _ in solution.ties for leaf in members}
    names = dict(zip(dict.fromkeys(leaf for leaf in ordered if leaf in kept), _letters(), strict=False))
    builder = _Builder(trace, slots, names, solution)
    graph = builder.build(case)
    torch.manual_seed(1)
    with decomposed():
        again = _copies(case())
    same = all(_same(a, b) for a, b in zip(first, again, strict=True))
    repeatable = same and not any("empty" in name for name, _ in trace.ops)
    return graph, [None if dims is None else _layouts(builder, dims) for dims in axes], repeatable


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, 0, 0, equal_nan=True)


def _copies(out: Any) -> list[Tensor]:
    """The tensors of a result, safe from what happens to the arguments that they may be views of."""
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
    believed = f"{case.label} with {', '.join(f'{k} keeping {v.tolist()}' for k, v in kept.items())}"
    torch.manual_seed(0)
    reference = _copies(run_reference(case, Call((), {}), graph.replay, keeps))
    sites = {name: Choice(len(keeps[name]), index) for name, index in kept.items()}
    edit = replay(case, Plan("", sites, graph.layouts, graph.attributes), check=False)
    try:
        torch.manual_seed(0)
        with decomposed():
            results = _copies(case())
    except Exception as error:
        raise AssertionError(f"{believed}: the smaller call raises {error}") from error
    finally:
        edit.undo()
    for k, (layouts, full, small) in enumerate(zip(outputs, reference, results, strict=True)):
        if layouts is None:
            continue
        expected = full
        for d, layout in enumerate(layouts):
            mask = layout.keep(keeps)
            if full.shape[d] == len(mask):  # else a statistic that the reference restricted itself
                expected = expected.index_select(d, torch.from_numpy(np.flatnonzero(mask)))
        if expected.shape != small.shape:
            shapes = f"{tuple(small.shape)} instead of {tuple(expected.shape)}"
            raise AssertionError(f"{believed}: output {k} has shape {shapes}; {_line(layouts)} was believed")
        found = compare(expected, small)
        if repeatable and not found.ok:
            what = found.note or f"the relative difference is {found.difference:.2g}"
            raise AssertionError(f"{believed}: output {k} is wrong, {what}; {_line(layouts)} was believed")


# --- criteria, units, allocators ------------------------------------------------------------------


class _Images(nn.Module):
    """Convolutions with norms, one grouped, a residual block and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.block = _Block(nn.Sequential(nn.Conv2d(8, 6, 1), nn.GELU(), nn.Conv2d(6, 8, 1)))
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.head = nn.Linear(12 + 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(self.block(torch.relu(self.norm(self.stem(x)))))
        return self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))


class _Sequences(nn.Module):
    """An embedding, an LSTM, attention and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.widen, self.out = nn.Linear(6, 12), nn.Linear(12, 2)
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.widen(self.lstm(self.embed(x))[0]))
        return self.out(y + self.attention(y, y, y, need_weights=False)[0])


class _Block(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _samples() -> Iterator[tuple[nn.Module, Tensor, Graph]]:
    """Small models to try things on; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = (_Images, torch.rand(2, 3, 5, 5)), (_Sequences, torch.arange(14).reshape(2, 7) % 7)
        made = [(kind().eval(), example) for kind, example in given]
        made[0][0].norm.running_mean.uniform_()
    for model, example in made:
        yield model, example, analyze(model, example)


def check_criterion(criterion: Any, *, monotone: bool = True) -> None:
    """Check a criterion on convolutions, norms, an LSTM, attention and blocks, in all float types.

    Scores must have shape `[n]`, be finite (also for half precision weights whose squares are not),
    and repeat for the same seed; weights, gradients and the global random state must stay as they
    are; weights that are not numbers must raise `InputError`; and doubling all weights of an index
    must not lower its score.

    monotone: leave the last one out where bigger is not better. It is left out, as is that about
    numbers, for a criterion that does not look at weights at all.

    Raises:
        AssertionError: It does not keep one of these promises.

    Example:
        >>> check_criterion("l1")
        >>> check_criterion(lambda site, facts: torch.rand(site.n))
        Traceback (most recent call last):
        AssertionError: the criterion '<lambda>' draws from the global random state: use facts.seed
    """
    used = resolve(criterion)
    label = f"the criterion {used.name!r}"
    for model, _, graph in _samples():
        places = sites(graph, [Channel(), Head(), Layer()], None, model)
        part = next(iter(model.state_dict()))
        places.append(Site("one", "channel", 1, (Slice(part, 0, Fixed(1), "out"),)))
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            scale = 300.0 if dtype == torch.float16 else 1.0
            facts, gradients = _facts(model, dtype, scale)
            facts, one = _with_one(facts, places, part)
            run = partial(_scored, used, [*places[:-1], one], gradients=gradients)
            before = {name: tensor.clone() for name, tensor in facts.tensors.items()}
            state = torch.random.get_rng_state()
            try:
                first = run(facts)
            except InputError as error:
                raise AssertionError(f"{label} on {dtype}: {error}") from error
            moved = not state.equal(torch.random.get_rng_state())
            assert not moved, f"{label} draws from the global random state: use facts.seed"
            for name, tensor in facts.tensors.items():
                assert _same(tensor, before[name]), f"{label} changes {name}"
            again = run(facts)
            for name, score in first.items():
                assert score.equal(again[name]), f"{label} gives {name} other scores the second time"
