"""Follows the result of a linear operation until something uses it, in one run of a model.

Between a layer and the sum that it joins there are only steps that are affine in each channel: a
batch normalisation, a scale, a view. They are recorded, so that after the layer is solved anew its
result can be brought up to date in place, and so that what the other branch of the sum lacks can be
asked of the layer (a target in the layer's own units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.graph.trace import fast_convolutions
from secateur.measure.linear import Parameters, Use

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution}
_VIEWS = {
    _aten.view, _aten._unsafe_view, _aten.reshape, _aten._reshape_alias, _aten.unsqueeze,
    _aten.squeeze, _aten.flatten, _aten.unflatten,
}  # fmt: skip
_COPIES = {_aten.clone, _aten.contiguous, _aten.alias, _aten.detach, _aten._to_copy, _aten.dropout}
NORMS = {
    _aten.native_batch_norm, _aten._native_batch_norm_legit_no_training,
    _aten._native_batch_norm_legit, _aten.cudnn_batch_norm, _aten.miopen_batch_norm,
    _aten._batch_norm_no_update, _aten.batch_norm,
}  # fmt: skip
_SMALL = 1e-3

Slot = tuple[str, int]
"""A weight's name, and the number of the part of it that is used (0 but for packed weights)."""


@dataclass(frozen=True)
class Shift:
    """A tensor that can take a bias `b` of what a step gets along `dim`, by adding `sign * b`."""

    tensor: Tensor
    sign: float
    dim: int


@dataclass(frozen=True)
class Affine:
    """What an affine step does.

    back: takes a change of its result back to its source. shift: see `Shift`. plain: the elements
    stay what they are, in the same order.
    """

    back: Callable[[Tensor], Tensor]
    shift: Shift | None = None
    plain: bool = False


@dataclass
class Step:
    """One recorded operation of a chain: how to do it again, and how to take a change back."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: Tensor
    result: Tensor
    how: Affine

    def again(self) -> None:
        """Bring the result up to date with the source."""
        if self.result.untyped_storage().data_ptr() == self.source.untyped_storage().data_ptr():
            return
        out = self.func(*self.args, **self.kwargs)
        self.result.copy_(out[0] if isinstance(out, (tuple, list)) else out)


@dataclass
class Pending:
    """A linear operation whose result only went through affine steps so far."""

    slot: Slot
    number: int  # of the call, for weights that are used often
    use: Use
    chain: list[Step] = field(default_factory=list)
    other: Tensor | None = None  # the other branch of the sum that ends the chain
    stale: bool = False  # nothing was computed yet: `refresh` does

    @property
    def last(self) -> Tensor:
        """Where the chain stands."""
        return self.chain[-1].result if self.chain else self.use.out

    @property
    def shift(self) -> Shift | None:
        """What can take a bias of the operation: a bias added on its own, or a running mean."""
        kernel, width = bool(self.use.spec.kernel), self.use.out.shape[self._channels(self.use.out)]
        if self.use.left:
            return None
        for step in self.chain:
            found = step.how.shift
            if found is not None:
                fits = found.dim == self._channels(step.source) and len(found.tensor) == width
                return found if fits and step.source.shape[found.dim] == width else None
            same = step.result.shape == step.source.shape
            if not step.how.plain or not (same or (not kernel and step.result.shape[-1] == width)):
                return None
        return None

    @property
    def norm(self) -> Norm | None:
        """The batch normalisation over the operation's outputs that follows it directly."""
        step = self.chain[0] if self.chain else None
        if step is None or self._channels(step.source) != 1:
            return None
        return norm_of(step.func, step.args)

    def _channels(self, tensor: Tensor) -> int:
        return 1 if self.use.spec.kernel else tensor.dim() - 1

    def other_branch(self) -> Tensor | None:
        """What the sum's other branch is in units of the operation's own output."""
        if self.other is None:
            return None
        value = self.other
        for step in reversed(self.chain):
            value = step.how.back(value)
        return value

    def refresh(self, weight: Tensor, bias: Tensor | None) -> None:
        """Compute everything again with the layer's new weight."""
        with torch.no_grad(), fast_convolutions():
            self.use.out.copy_(self.use.again(weight, bias))
            for step in self.chain:
                step.again()
        self.stale = False


class Follow(TorchDispatchMode):
    """Stops at the wanted linear operations of one run.

    wanted: slot -> whether to wait for the end of the chain (else it stops at once); None: all, at
    once. stop: called with a `Pending`; when it returns, the run goes on. soon: says that a slot's
    weight is about to change, so that a convolution need not run before; its result is computed
    when `stop` returns at the latest. looks: says of a slot and the number of a use in this run
    whether to stop there.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Mapping[Slot, bool] | None,
        stop: Callable[[Pending], object],
        soon: Callable[[Slot], bool] | None = None,
        looks: Callable[[Slot, int], bool] | None = None,
    ) -> None:
        super().__init__()
        self.parameters = Parameters(model)
        self.wanted, self.stop, self.soon, self.looks = wanted, stop, soon, looks
        self._calls: dict[Slot, int] = {}
        self._rows: dict[str, list[tuple[int, int] | None]] = {}
        self._open: dict[int, Pending] = {}

    def _unfilled(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        """The form of the result of a convolution that need not run yet; None for all others."""
        if self.soon is None or self.wanted is None:
            return None
        if any(isinstance(leaf, Tensor) and id(leaf) in self._open for leaf in args[:3]):
            return None
        name = self.parameters.name(args[1])
        slot = ("" if name is None else name, 0)
        if not self.wanted.get(slot) or not self.soon(slot):
            return None
        formal = [leaf.to("meta") if isinstance(leaf, Tensor) else leaf for leaf in args]
        form = func(*formal, **kwargs)
        out = args[0].new_empty_strided(form.shape, form.stride(), dtype=form.dtype)
        return None if self.parameters.use(func, args, out, kwargs) is None else out

    def _slot(self, use: Use) -> Slot:
        """Which part of which weight: the parts of a packed one are numbered as they come."""
        parts = self._rows.setdefault(use.spec.weight, [])
        if use.spec.rows not in parts:
            parts.append(use.spec.rows)
        return use.spec.weight, parts.index(use.spec.rows)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        pending = self._meet(func, args, kwargs) if self._open else None
        convolution, unfilled = func._overloadpacket in _CONVOLUTIONS, None
        if convolution:
            out = unfilled = self._unfilled(func, args, kwargs)
            if unfilled is None:
                with fast_convolutions():
                    out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        if pending is not None:
            self._extend(pending, func, args, kwargs, out)
            return out
        use = self.parameters.use(func, args, out, kwargs)
        if use is not None:
            self._found(use, stale=unfilled is not None)
        return out

    def _found(self, use: Use, *, stale: bool) -> None:
        """Stop at a linear operation, at once or later, if it is wanted."""
        slot = self._slot(use)
        if self.wanted is not None and slot not in self.wanted:
            return
        number = self._calls.get(slot, 0)
        self._calls[slot] = number + 1
        if self.looks is not None and not self.looks(slot, number):
            return
        made = Pending(slot, number, use, stale=stale)
        if self.wanted is not None and self.wanted[slot]:
            self._open[id(use.out)] = made
        else:
            self.stop(made)

    def finish(self) -> None:
        """Stop for results that nothing used (outputs of the model)."""
        for pending in {id(p): p for p in self._open.values()}.values():
            self._close(pending)

    def _meet(self, func: Any, args: Any, kwargs: Any) -> Pending | None:
        """Close what this operation uses otherwise; the one pending that it continues, if any."""
        flat = [leaf for leaf in _leaves(args, kwargs) if id(leaf) in self._open]
        met = [self._open[id(t)] for t in flat]
        if not met:
            return None
        if len(met) == 1 and _step(func, args, self.parameters, met[0].last) is not None:
            return met[0]
        apart = list({id(p): p for p in met}.values())
        for number, pending in enumerate(apart):
            for later in apart[number + 1 :]:
                self._fill(later)  # it may be the other branch
            pending.other = self._other(func, args, kwargs, pending)
            self._close(pending)
        return None

    def _other(self, func: Any, args: Any, kwargs: Any, pending: Pending) -> Tensor | None:
        """The other operand of a sum; None where this is not a plain sum of equals."""
        if func._overloadpacket not in (_aten.add, _aten.add_) or len(args) < 2:
            return None
        if kwargs.get("alpha", 1) != 1:
            return None
        first, second = args[:2]
        if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
            return None
        if first.shape != second.shape or not (pending.last is first or pending.last is second):
            return None
        other = second if pending.last is first else first
        return None if self._open.get(id(other)) is pending else other  # it meets itself

    def _extend(self, pending: Pending, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        result = out[0] if isinstance(out, (tuple, list)) else out
        how = _step(func, args, self.parameters, pending.last)
        assert how is not None  # _meet has asked
        pending.chain.append(Step(func, args, kwargs, pending.last, result, how))
        self._open[id(result)] = pending

    def _close(self, pending: Pending) -> None:
        for tensor in (pending.use.out, *(step.result for step in pending.chain)):
            self._open.pop(id(tensor), None)
        self.stop(pending)
        self._fill(pending)

    def _fill(self, pending: Pending) -> None:
        """Compute what was not yet, with the weight as it is now."""
        if pending.stale:
            spec, tensors = pending.use.spec, self.parameters.tensors
            pending.refresh(tensors[spec.weight], None if spec.bias is None else tensors[spec.bias])


def _leaves(args: Any, kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Arguments, and what is in those that are lists: operations have no deeper ones."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _step(func: Any, args: Any, parameters: Parameters, x: Tensor) -> Affine | None:
    """For an affine step of `x`: what it does."""
    packet = func._overloadpacket
    if packet in (_aten.mul, _aten.add) and len(args) > 1 and args[1] is x and args[0] is not x:
        args = (x, args[0])
    if args[0] is not x:
        return None
    if packet in NORMS:
        return _norm(func, args)
    if packet in _COPIES:
        return Affine(lambda v: v.to(x.dtype), plain=True)
    if packet in _VIEWS:
        return Affine(lambda v: v.reshape(x.shape), plain=True)
    if packet is _aten.permute:
        order = [d % x.dim() for d in args[1]]
        inverse = [order.index(d) for d in range(x.dim())]
        return Affine(lambda v: v.permute(inverse))
    if packet in (_aten.transpose, _aten.t):
        if x.dim() < 2:
            return Affine(lambda v: v)
        first, second = args[1:3] if packet is _aten.transpose else (0, 1)
        return Affine(lambda v: v.transpose(first, second))
    if packet in (_aten.mul, _aten.div, _aten.add) and len(args) > 1:
        return _scale(packet, x, args[1], parameters)
    return None


@dataclass(frozen=True)
class Norm:
    """A batch normalisation with running statistics: `(x - mean) * factor * scale + shift`.

    All have one number for each channel.
    """

    mean: Tensor
    factor: Tensor
    scale: Tensor
    shift: Tensor


def norm_of(func: Any, args: Any) -> Norm | None:
    """The batch normalisation that an operation is; None where it uses the batch's statistics."""
    if func._overloadpacket not in NORMS:
        return None
    named = dict(zip((p.name for p in func._schema.arguments), args, strict=False))
    mean, variance = named.get("running_mean"), named.get("running_var")
    if mean is None or variance is None or named.get("training") or args[0].dim() < 2:
        return None
    factor = torch.rsqrt(variance + named.get("eps", named.get("epsilon", 1e-5)))
    weight, bias = named.get("weight"), named.get("bias")
    scale = torch.ones_like(mean) if weight is None else weight
    return Norm(mean, factor, scale, torch.zeros_like(mean) if bias is None else bias)


def _norm(func: Any, args: Any) -> Affine | None:
    norm = norm_of(func, args)
    if norm is None:
        return None
    scale, shape = norm.factor * norm.scale, [1, -1] + [1] * (args[0].dim() - 2)
    shift = Shift(norm.mean, -1.0, 1)
    return Affine(lambda v: v * _inverse(scale).view(shape).to(v.dtype), shift)


def _scale(packet: Any, x: Tensor, factor: Any, parameters: Parameters) -> Affine | None:
    """A product with a parameter or a number, or a parameter that is added."""
    if isinstance(factor, Tensor):
        if factor is x or parameters.name(factor) is None or factor.dim() > x.dim():
            return None
        if torch.broadcast_shapes(factor.shape, x.shape) != x.shape:
            return None
    if packet is _aten.add:
        whole = isinstance(factor, Tensor) and factor.dim() == 1 and parameters.whole(factor)
        return Affine(lambda v: v, Shift(factor, 1.0, x.dim() - 1) if whole else None)
    scale = torch.as_tensor(factor, dtype=x.dtype, device=x.device)
    scale = scale if packet is _aten.mul else 1 / scale
    return Affine(lambda v: v * _inverse(scale))


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the channel hardly counts, so that nothing is asked of it."""
    small = scale.abs() <= _SMALL * scale.abs().max()
    return torch.where(small, torch.zeros_like(scale), 1 / scale.masked_fill(small, 1))


__all__ = ["NORMS", "Affine", "Follow", "Norm", "Pending", "Shift", "Slot", "norm_of"]
