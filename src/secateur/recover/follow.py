"""Follows the result of a linear operation until something uses it, in one run of a model.

Between a layer and the sum that it joins there are only steps that are affine in each channel: a
batch normalisation, a scale, a view. They are recorded, so that after the layer is solved anew its
result can be brought up to date in place, and so that what the other branch of the sum lacks can be
asked of the layer (a target in the layer's own units).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from secateur.graph.trace import fast_convolutions
from secateur.measure.linear import Parameters, Use

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution}
_VIEWS = {
    _aten.view, _aten._unsafe_view, _aten.reshape, _aten._reshape_alias, _aten.unsqueeze,
    _aten.squeeze, _aten.expand, _aten.flatten, _aten.unflatten,
}  # fmt: skip
_COPIES = {_aten.clone, _aten.contiguous, _aten.alias, _aten.detach, _aten._to_copy, _aten.dropout}
_NORMS = {
    _aten.native_batch_norm, _aten._native_batch_norm_legit_no_training,
    _aten._native_batch_norm_legit, _aten.cudnn_batch_norm, _aten.miopen_batch_norm,
    _aten._batch_norm_no_update, _aten.batch_norm,
}  # fmt: skip
_SMALL = 1e-3

Slot = tuple[str, int]
"""A weight's name, and the number of the part of it that is used (0 but for packed weights)."""


@dataclass
class Step:
    """One recorded operation of a chain: how to do it again, and how to take a change back."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: Tensor
    result: Tensor
    back: Callable[[Tensor], Tensor]
    mean: Tensor | None = None  # running mean of a batch normalisation, which can take a bias

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

    @property
    def last(self) -> Tensor:
        """Where the chain stands."""
        return self.chain[-1].result if self.chain else self.use.out

    @property
    def mean(self) -> Tensor | None:
        """The running mean of a batch normalisation that follows the operation directly."""
        return self.chain[0].mean if self.chain else None

    def other_branch(self) -> Tensor | None:
        """What the sum's other branch is in units of the operation's own output."""
        if self.other is None:
            return None
        value = self.other
        for step in reversed(self.chain):
            value = step.back(value)
        return value

    def refresh(self, weight: Tensor, bias: Tensor | None) -> None:
        """Compute everything again with the layer's new weight."""
        with torch.no_grad(), fast_convolutions():
            self.use.out.copy_(self.use.again(weight, bias))
            for step in self.chain:
                step.again()


class Follow(TorchDispatchMode):
    """Stops at the wanted linear operations of one run.

    wanted: slot -> whether to wait for the end of the chain (else it stops at once); None: all, at
    once. stop: called with a `Pending`; when it returns, the run goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Mapping[Slot, bool] | None,
        stop: Callable[[Pending], object],
    ) -> None:
        super().__init__()
        self.parameters = Parameters(model)
        self.wanted, self.stop = wanted, stop
        self._calls: dict[Slot, int] = {}
        self._rows: dict[str, list[tuple[int, int] | None]] = {}
        self._open: dict[int, Pending] = {}

    def _slot(self, use: Use) -> Slot:
        """Which part of which weight: the parts of a packed one are numbered as they come."""
        parts = self._rows.setdefault(use.spec.weight, [])
        if use.spec.rows not in parts:
            parts.append(use.spec.rows)
        return use.spec.weight, parts.index(use.spec.rows)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        pending = self._meet(func, args, kwargs) if self._open else None
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        if pending is not None:
            self._extend(pending, func, args, kwargs, out)
            return out
        use = self.parameters.use(func, args, out)
        slot = None if use is None else self._slot(use)
        if use is not None and slot is not None and (self.wanted is None or slot in self.wanted):
            number = self._calls.get(slot, 0)
            self._calls[slot] = number + 1
            made = Pending(slot, number, use)
            if self.wanted is not None and self.wanted[slot]:
                self._open[id(out)] = made
            else:
                self.stop(made)
        return out

    def finish(self) -> None:
        """Stop for results that nothing used (outputs of the model)."""
        for pending in {id(p): p for p in self._open.values()}.values():
            self._close(pending)

    def _meet(self, func: Any, args: Any, kwargs: Any) -> Pending | None:
        """Close what this operation uses otherwise; the one pending that it continues, if any."""
        flat = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        met = [self._open[id(t)] for t in flat if id(t) in self._open]
        if not met:
            return None
        if len(met) == 1 and met[0].last is flat[0]:
            pending = met[0]
            if _step(func, args, self.parameters) is not None:
                return pending
        for pending in {id(p): p for p in met}.values():
            pending.other = self._other(func, args, pending)
            self._close(pending)
        return None

    def _other(self, func: Any, args: Any, pending: Pending) -> Tensor | None:
        """The other operand of a sum; None where this is not a plain sum of equals."""
        if func._overloadpacket not in (_aten.add, _aten.add_) or len(args) < 2:
            return None
        first, second = args[:2]
        if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
            return None
        if first.shape != second.shape or first is second:
            return None
        return second if pending.last is first else first if pending.last is second else None

    def _extend(self, pending: Pending, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        result = out[0] if isinstance(out, (tuple, list)) else out
        step = _step(func, args, self.parameters)
        assert step is not None  # _meet has asked
        back, mean = step
        pending.chain.append(Step(func, args, kwargs, pending.last, result, back, mean))
        self._open[id(result)] = pending

    def _close(self, pending: Pending) -> None:
        for tensor in (pending.use.out, *(step.result for step in pending.chain)):
            self._open.pop(id(tensor), None)
        self.stop(pending)


def _step(
    func: Any, args: Any, parameters: Parameters
) -> tuple[Callable[[Tensor], Tensor], Tensor | None] | None:
    """For an affine step: how a change of its result goes back to its source; running mean."""
    packet, x = func._overloadpacket, args[0]
    if packet in _NORMS:
        return _norm(func, args)
    if packet in _COPIES:
        return (lambda v: v.to(x.dtype)), None
    if packet in _VIEWS:
        shape = x.shape
        return ((lambda v: v.reshape(shape)), None) if _same_elements(func, args) else None
    if packet is _aten.permute:
        inverse = [0] * x.dim()
        for new, old in enumerate(args[1]):
            inverse[old] = new
        return (lambda v: v.permute(inverse)), None
    if packet in (_aten.transpose, _aten.t):
        first, second = args[1:3] if packet is _aten.transpose else (0, 1)
        return (lambda v: v.transpose(first, second)), None
    if packet in (_aten.mul, _aten.div) and len(args) > 1:
        return _scale(packet, x, args[1], parameters)
    if packet is _aten.add and len(args) > 1 and parameters.name(args[1]) is not None:
        return ((lambda v: v), None) if args[1].dim() <= 1 else None
    return None


def _same_elements(func: Any, args: Any) -> bool:
    return func._overloadpacket is not _aten.expand


def _norm(func: Any, args: Any) -> tuple[Callable[[Tensor], Tensor], Tensor | None] | None:
    named = dict(zip((p.name for p in func._schema.arguments), args, strict=False))
    x, weight = args[0], named.get("weight")
    mean, variance = named.get("running_mean"), named.get("running_var")
    if mean is None or variance is None or named.get("training") or x.dim() < 2:
        return None
    eps = named.get("eps", named.get("epsilon", 1e-5))
    scale = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight)
    shape = [1, -1] + [1] * (x.dim() - 2)
    return (lambda v: v * _inverse(scale).view(shape)), mean


def _scale(
    packet: Any, x: Tensor, factor: Any, parameters: Parameters
) -> tuple[Callable[[Tensor], Tensor], Tensor | None] | None:
    if isinstance(factor, Tensor):
        if parameters.name(factor) is None or factor.dim() > x.dim():
            return None
        wide = torch.broadcast_shapes(factor.shape, x.shape)
        if wide != x.shape:
            return None
    scale = torch.as_tensor(factor, dtype=x.dtype, device=x.device)
    scale = scale if packet is _aten.mul else 1 / scale
    return (lambda v: v * _inverse(scale)), None


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the channel hardly counts, so that nothing is asked of it."""
    small = scale.abs() <= _SMALL * scale.abs().max()
    return torch.where(small, torch.zeros_like(scale), 1 / scale.masked_fill(small, 1))


__all__ = ["Follow", "Pending", "Slot"]
