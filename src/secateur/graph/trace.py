"""Runs a model once and records what happens to every axis of every tensor.

Two modes watch the same run: a dispatch mode sees primitive ATen operations whatever the Python
above them does, and a function mode sees the Python-level calls with their sizes (`functions.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.core.batches import hooked
from secateur.core.plan import Reason
from secateur.core.tensors import named_tensors
from secateur.graph import functions, sizes
from secateur.graph.axes import Axis, fixed
from secateur.graph.flow import Flow
from secateur.graph.op import RULES, Op
from secateur.graph.rules import CONSTANT, pointwise
from secateur.graph.sizes import Equation, Expr, TracedInt, call_site
from secateur.graph.states import final_states

Restriction = tuple[str, Any, int, Axis]  # how, argument, dimension, axis
_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution}
_VIEWS = {_aten.t, _aten.transpose, _aten.permute, _aten.detach, _aten.alias, _aten.numpy_T}


class Watch(Protocol):
    """Something to do when a tensor is first used."""

    def used(self) -> None:
        """React."""
        ...


class Trace:
    """Everything that one run recorded, for `analyze.py` to read afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {id(module): name for name, module in model.named_modules()}
        self.tensors: dict[str, Tensor] = {}
        self.owners: dict[int, str] = {}
        self.used: set[str] = set()
        self._axes = WeakTensorKeyDictionary()
        self._origin = WeakTensorKeyDictionary()  # views of parameters: (name, dims)
        self._watched = WeakTensorKeyDictionary()
        self.scratch: dict[str, Any] = {}
        self.pending: dict[Axis, Reason] = {}
        self.equations: dict[tuple[Expr, Expr], Equation] = {}
        self.unknown: dict[str, Reason] = {}
        self.data_dependent: set[str] = set()
        self.ops: list[tuple[str, str]] = []  # (operation, module)
        self.restrictions: dict[int, list[Restriction]] = {}
        self.terms: dict[tuple[str, str, tuple[int, ...]], tuple[int, list[Axis]]] = {}
        self.contracted: set[tuple[str, int]] = set()
        self.norm_roles: dict[str, str] = {}
        self.modules: list[str] = []
        self.recurrent = False  # inside the forward of an nn.LSTM, nn.GRU or nn.RNN
        self.inside = False  # inside a Python-level torch call
        self.trusted = False  # inside one that takes all its sizes from shapes
        self.flow = Flow()
        self.final_states: list[Tensor] = []  # of recurrent layers
        self.states: dict[int, list[Axis]] = {}  # outputs that the model takes back
        self.sliced: list[tuple[Axis, list[Axis], Reason]] = []  # stored tensors: taken, left over
        self._memory: set[int] = set()  # of stored tensors
        for name, tensor in named_tensors(model):
            self.owners[id(tensor)] = name
            self.tensors[name] = tensor
            self.give(tensor, [Axis(size) for size in tensor.shape])
            self._origin[tensor] = (name, tuple(range(tensor.dim())))
            self._memory.add(_address(tensor))

    # --- axes -----------------------------------------------------------------------------------

    def axes(self, tensor: Tensor) -> list[Axis]:
        """The axes of a tensor; one that nobody made (a constant in the code) is frozen."""
        found: list[Axis] | None = self._axes.get(tensor)
        watch = self._watched.pop(tensor, None) if self._watched else None
        if watch is not None:
            watch.used()
        if found is None or [axis.size for axis in found] != list(tensor.shape):
            reason = self.reason("a tensor made outside the traced operations", "constant")
            found = [fixed(size, reason) for size in tensor.shape]
            self._axes[tensor] = found
        return list(found)

    def before(self, tensor: Tensor) -> list[Axis]:
        """The axes of a tensor before the in-place operation that has just changed its shape."""
        return list(self._axes[tensor])

    def watch(self, tensor: Tensor, watch: Watch) -> None:
        """Call `watch.used()` once, when an operation first uses the tensor as a whole."""
        self._watched[tensor] = watch

    def watched(self, tensor: Tensor) -> Watch | None:
        """The watch on a tensor, if it has not been used."""
        found: Watch | None = self._watched.get(tensor)
        return found

    def known(self, tensor: Any) -> bool:
        """Whether the tensor has been named."""
        return isinstance(tensor, Tensor) and tensor in self._axes

    def give(self, tensor: Tensor, axes: list[Axis]) -> None:
        """Name the axes of a tensor."""
        if [axis.size for axis in axes] != list(tensor.shape):
            raise ValueError(f"axes {axes} do not fit a tensor of shape {tuple(tensor.shape)}")
        self._axes[tensor] = axes

    def reason(self, text: str, op: str) -> Reason:
        """A reason at the user's line."""
        return Reason(text, op, call_site())

    # --- sizes ----------------------------------------------------------------------------------

    def equate(self, left: Expr, right: Expr, what: str) -> None:
        """Demand `left == right` after every cut."""
        if left == right or (left, right) in self.equations:
            return
        if not any(
            kind == "attr" or axis.free for e in (left, right) for kind, axis in sizes.atoms(e)
        ):
            return
        self.equations[left, right] = Equation(left, right, what, call_site())

    def pin(self, expr: Expr, value: float) -> None:
        """Demand that an expression keeps its value: it is used as a number, not only as a size."""
        self.equate(expr, value, "its value enters the computation")

    def size_of(self, axis: Axis) -> int:
        """The axis's size as an integer that remembers the axis."""
        return TracedInt.make(axis.size, ("count", axis)) if axis.free else axis.size

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a report should know about this run."""
        if not self.data_dependent:
            return ()
        lines = ", ".join(sorted(self.data_dependent)[:3])
        return (f"control flow may depend on the data (traced as the example took it): {lines}",)

    # --- what the run did -------------------------------------------------------------------------

    @property
    def module(self) -> str:
        """The qualified name of the module that is running."""
        return self.modules[-1] if self.modules else ""

    def restrict(self, index: int, restriction: Restriction) -> None:
        """The reference run must restrict operation `index` to what is kept of an axis."""
        self.restrictions.setdefault(index, []).append(restriction)

    def contract(self, index: int, tensor: Tensor, dim: int, args: dict[str, Any]) -> None:
        """The reference run must zero what is removed of `dim` before operation `index` sums."""
        axis = self.axes(tensor)[dim]
        if axis.free:
            name = next(key for key, value in args.items() if value is tensor)
            self.restrict(index, ("zero", name, dim, axis))

    def consumes(self, tensor: Tensor, dim: int) -> None:
        """Remember that a parameter (or a transposed view of it) is contracted along `dim`."""
        origin = self._origin.get(tensor)
        if origin is not None:
            self.contracted.add((origin[0], origin[1][dim]))

    def origin(self, tensor: Tensor) -> str | None:
        """The name of the parameter that a tensor is, or is a transposed view of."""
        found = self._origin.get(tensor)
        return None if found is None else found[0]

    def stores(self, tensor: Tensor) -> bool:
        """Whether the model keeps the tensor's memory, as a parameter, a buffer or an attribute."""
        return bool(tensor.numel()) and _address(tensor) in self._memory

    def count_macs(self, op: str, factor: int, axes: list[Axis]) -> None:
        """Add to the multiply-accumulates of the module that is running."""
        key = (self.module, op, tuple(axis.find().id for axis in axes))
        total, _ = self.terms.get(key, (0, axes))
        self.terms[key] = (total + factor, axes)

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Apply the rule of one executed operation."""
        index = len(self.ops)
        self.ops.append((str(func), self.module))
        packet = func._overloadpacket
        function = RULES.get(packet)
        if function is None and torch.Tag.pointwise in func.tags:
            function = pointwise.pointwise
        if function is None and packet in CONSTANT:
            if packet in (_aten._local_scalar_dense, _aten.is_nonzero) and args[0].numel():
                self.data_dependent.add(call_site())
            return
        op = Op(self, func, args, kwargs, out, index)
        if not op.outputs or op.outputs[0].numel():  # on no data nothing was seen to work
            self.used.update(self.owners[id(t)] for t in op.inputs if id(t) in self.owners)
        try:
            if function is None:
                self.opaque(op, f"no rule for {func}", unknown=True)
            else:
                function(op)
                if any(tensor not in self._axes for tensor in op.outputs):
                    self.opaque(op, f"the rule for {func} forgets an output", unknown=True)
        except Exception as error:  # never guess: whatever goes wrong in a rule freezes
            self.opaque(op, f"the rule for {func} does not cover this use: {error}", unknown=True)
        if packet in _VIEWS:
            self._follow_view(packet, args, out)
        self.flow.record(packet, op)

    def opaque(self, op: Op, text: str, unknown: bool = False) -> None:
        """Freeze everything that an operation touches."""
        reason = op.reason(text)
        if unknown:
            self.unknown.setdefault(str(op.func), reason)
        for tensor in op.inputs:
            for axis in self.axes(tensor):
                axis.freeze(reason)
        for tensor in op.outputs:
            known = self._axes.get(tensor)
            if known is None or [axis.size for axis in known] != list(tensor.shape):
                self._axes[tensor] = [fixed(size, reason) for size in tensor.shape]
            for axis in self.axes(tensor):
                axis.freeze(reason)

    def _follow_view(self, packet: Any, args: tuple[Any, ...], out: Tensor) -> None:
        origin = self._origin.get(args[0])
        if origin is None or not isinstance(out, Tensor):
            return
        name, dims = origin
        rank = len(dims)
        if packet is _aten.permute:
            dims = tuple(dims[d] for d in args[1])
        elif packet in (_aten.t, _aten.numpy_T):
            dims = dims[::-1]
        elif packet is _aten.transpose:
            swapped = list(dims)
            a, b = args[1] % rank, args[2] % rank
            swapped[a], swapped[b] = swapped[b], swapped[a]
            dims = tuple(swapped)
        self._origin[out] = (name, dims)


class _Dispatch(TorchDispatchMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            self.trace.record(func, args, kwargs, out)
        return out


class _Functions(TorchFunctionMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return functions.call(self, self.trace, func, args, kwargs or {})


def _set_fused(mkldnn: bool, cudnn: bool) -> None:
    torch._C._set_mkldnn_enabled(mkldnn)
    torch._C._set_cudnn_enabled(cudnn)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


@contextmanager
def fast_convolutions() -> Iterator[None]:
    """Let a single convolution use oneDNN or cuDNN although the run decomposes RNNs."""
    _set_fused(True, True)
    try:
        yield
    finally:
        _set_fused(False, False)


@contextmanager
def decomposed() -> Iterator[None]:
    """Switch off the fused RNN and attention paths, so that primitive operations are seen."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    fused = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        _set_fused(False, False)
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        _set_fused(*fused)


@contextmanager
def recording(trace: Trace) -> Iterator[None]:
    """Record every operation executed inside."""

    def enter(module: nn.Module, args: Any) -> None:
        name = trace.names.get(id(module), trace.module)
        trace.modules.append(name)
        trace.recurrent = isinstance(module, nn.RNNBase)
        first = next((t for t in tree_leaves(args) if isinstance(t, Tensor)), None)
        with torch._C.DisableTorchFunction():  # our own look at shapes is not the user's
            seen = None if first is None else (trace.flow.id(first), first.shape)
        trace.scratch.setdefault("inputs", []).append(seen)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        name = trace.modules.pop()
        trace.recurrent = False
        source = trace.scratch["inputs"].pop()
        first = next((t for t in tree_leaves(out) if isinstance(t, Tensor)), None)
        with torch._C.DisableTorchFunction():
            trace.final_states += final_states(module, out)
            if source is not None and first is not None and source[1] == first.shape:
                call = (name, source[0], trace.flow.id(first), isinstance(out, tuple))
                trace.flow.calls.append(call)

    every = nn.modules.module
    leaving = partial(every.register_module_forward_hook, always_call=True)
    sizes.activate(trace)
    try:
        with (
            hooked([(every.register_module_forward_pre_hook, enter), (leaving, leave)]),
            decomposed(),
            _Functions(trace),
            _Dispatch(trace),
        ):
            yield
    finally:
        sizes.activate(None)
