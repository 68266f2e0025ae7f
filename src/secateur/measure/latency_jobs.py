"""What is timed: every linear operation and recurrent layer of a model, as a job of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.batches import Call, hooked, untouched
from secateur.core.layout import Concat, Fixed, Layout
from secateur.graph.graph import Graph
from secateur.graph.trace import decomposed, fast_convolutions
from secateur.measure.linear import Parameters, Spec, Use

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution, _aten._convolution)
_PLAIN = Spec("", None, "dense")


@dataclass(frozen=True)
class Job:
    """An operation that can be run with made-up tensors at any size.

    kind: "dense", "flipped", "conv", "transposed", or a class of `nn` ("LSTM"). shape: of the
    input, 0 where the channels are. inside, outside: full sizes of the weight's contracted and
    producing dimension (a recurrent layer's input and hidden size). follow: the groups shrink with
    the channels (depthwise). options: whatever else the class of a recurrent layer was made with.
    """

    kind: str
    shape: tuple[int, ...]
    inside: int
    outside: int
    dtype: torch.dtype
    bias: bool
    spec: Spec = _PLAIN
    follow: bool = False
    left: bool = False
    channels_last: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    lengths: tuple[int, ...] = ()

    def key(self, inside: int, outside: int) -> str:
        """Everything that the time depends on, but for the machine."""
        spec = self.spec
        parts = {
            "x": self.shape, "w": (outside, inside), "full": self._full(), "b": self.bias,
            "k": spec.kernel, "s": spec.stride, "p": spec.padding, "d": spec.dilation,
            "o": spec.output_padding, "left": self.left, "nhwc": self.channels_last,
            "opt": self.options, "n": self.lengths,
        }  # fmt: skip
        said = " ".join(f"{k}={v}".replace(" ", "") for k, v in parts.items() if v not in ((), 0))
        return f"{self.kind} {str(self.dtype).removeprefix('torch.')} {said}"

    def _full(self) -> tuple[int, ...]:
        """What the groups are taken from."""
        if self.spec.groups == 1:
            return ()
        return (self.spec.groups, self.inside, self.outside) if self.follow else (self.spec.groups,)

    def sizes(self, share: float, full: int, *, of_groups: bool) -> int:
        """About this share of a dimension, at least 1, and a multiple of fixed groups."""
        step = self.spec.groups if of_groups and not self.follow else 1
        return max(step, round(share * full / step) * step)

    def make(self, inside: int, outside: int, device: torch.device) -> Callable[[], object]:
        """A function that runs it once; made-up values, so that nothing is denormal or NaN."""
        if self.options:
            return self._recurrent(inside, outside, device)
        if self.spec.kernel:
            return self._convolution(inside, outside, device)
        x = self._ones([inside if size == 0 else size for size in self.shape], device)
        flipped = self.kind == "flipped"
        weight = self._ones([inside, outside] if flipped else [outside, inside], device)
        bias = self._ones([outside], device) if self.bias else None
        if self.left:
            return lambda: torch.mm(weight.t() if flipped else weight, x)
        matrix = weight.t() if flipped else weight
        return lambda: nn.functional.linear(x, matrix, bias)

    def _convolution(self, inside: int, outside: int, device: torch.device) -> Callable[[], object]:
        spec, groups = self.spec, self.spec.groups
        transposed = spec.kind == "transposed"
        if self.follow:
            share = inside / self.inside if transposed else outside / self.outside
            groups = max(1, round(groups * share))
        if transposed:
            channels = groups * max(1, round(inside / groups))
            weight, out = self._ones([channels, outside, *spec.kernel], device), outside * groups
        else:
            out = groups * max(1, round(outside / groups))
            weight, channels = self._ones([out, inside, *spec.kernel], device), inside * groups
        x = self._ones([channels if size == 0 else size for size in self.shape], device)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
            weight = weight.contiguous(memory_format=torch.channels_last)
        bias = self._ones([out], device) if self.bias else None
        return lambda: _aten.convolution(
            x, weight, bias, spec.stride, spec.padding, spec.dilation,
            transposed, spec.output_padding, groups,
        )  # fmt: skip

    def _recurrent(self, inside: int, outside: int, device: torch.device) -> Callable[[], object]:
        options = dict(self.options)
        projected = int(options.get("proj_size", 0))
        if projected:
            options["proj_size"] = max(1, min(outside - 1, projected * outside // self.outside))
            if outside < 2:
                del options["proj_size"]
        made = {"input_size": inside, "hidden_size": outside, **options}
        module = getattr(nn, self.kind)(**made, device=device, dtype=self.dtype)
        module.train(False)
        x: Any = self._ones([inside if size == 0 else size for size in self.shape], device)
        if self.lengths:
            x = PackedSequence(x, torch.tensor(self.lengths))
        return lambda: module(x)

    def _ones(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return torch.full(tuple(shape), 0.5, dtype=self.dtype, device=device)


@dataclass(frozen=True)
class Operation:
    """One use of a job in a model: whose it is, and what its sizes are made of.

    outputs: elements of the output for every index of `outside`. scale: the part of `outside` that
    is used (a packed projection's rows).
    """

    module: str
    job: Job
    inside: Layout
    outside: Layout
    outputs: float
    scale: float = 1.0


@dataclass(frozen=True)
class Found:
    """The operations of one run of a model, in order, and how many others there were."""

    operations: tuple[Operation, ...]
    others: int


def find(model: nn.Module, call: Call, graph: Graph) -> Found:
    """Run the model once and list its linear operations and recurrent layers.

    Takes one forward pass. Recurrent layers are listed whole: real runs use a fused kernel.
    Products with anything but a plain parameter (attention's) are among the others.

    Example:
        >>> from secateur.graph import analyze
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> call = Call((torch.zeros(5, 3),), {})
        >>> found = find(net, call, analyze(net, call))
        >>> [(o.module, o.inside.size, o.outside.size) for o in found.operations], found.others
        ([('0', 3, 8), ('2', 8, 2)], 1)
    """
    watch = _Watch(model, graph)
    with untouched(model), watch.modules(), decomposed(), watch:
        call.run(model)
    return Found(tuple(watch.found), watch.others)


class _Watch(TorchDispatchMode):
    def __init__(self, model: nn.Module, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.parameters = Parameters(model)
        self.names = {id(module): name for name, module in model.named_modules()}
        self.stack = [""]
        self.whole = [False]
        self.found: list[Operation] = []
        self.others = 0
        self.groups = {a.module for a in graph.attributes if a.path == "groups"}

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Know in which module an operation runs."""

        def enter(module: nn.Module, args: Any) -> None:
            self.stack.append(self.names.get(id(module), self.stack[-1]))
            starts = isinstance(module, nn.RNNBase) and bool(args) and not self.whole[-1]
            if starts:
                self.found.append(self._layer(module, args[0]))
            self.whole.append(starts or self.whole[-1])

        def leave(module: nn.Module, args: Any, out: Any) -> None:
            self.stack.pop()
            self.whole.pop()

        every = nn.modules.module
        leaving = partial(every.register_module_forward_hook, always_call=True)
        with hooked([(every.register_module_forward_pre_hook, enter), (leaving, leave)]):
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        convolution = func._overloadpacket in _CONVOLUTIONS
        with fast_convolutions() if convolution else nullcontext():
            out = func(*args, **(kwargs or {}))
        if not self.whole[-1]:
            use = self.parameters.use(func, args, out)
            if use is not None:
                self.found.append(self._operation(use))
            elif not func.is_view:
                self.others += 1
        return out

    def _operation(self, use: Use) -> Operation:
        spec, x = use.spec, use.x
        weight = self.parameters.tensors[spec.weight]
        dims = self.graph.layouts.get(spec.weight) or tuple(map(Fixed, weight.shape))
        inside, outside, scale = dims[spec.in_dim], dims[spec.out_dim], 1.0
        if spec.rows is not None:
            outside, scale = _part(outside, *spec.rows)
        channels = 1 if spec.kernel else 0 if use.left else x.dim() - 1
        shape = tuple(0 if d == channels else n for d, n in enumerate(x.shape))
        full = round(scale * outside.size)
        bare = replace(spec, weight="", bias=None, rows=None)
        job = Job(
            spec.kind, shape, inside.size, full, x.dtype, spec.bias is not None, bare,
            spec.groups > 1 and self.stack[-1] in self.groups, use.left,
            x.dim() == 4 and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last),
        )  # fmt: skip
        outputs = use.out.numel() / max(1, full)
        return Operation(self.stack[-1], job, inside, outside, outputs, scale)

    def _layer(self, module: nn.RNNBase, given: Any) -> Operation:
        lengths: tuple[int, ...] = ()
        x = given
        if isinstance(given, PackedSequence):
            x, lengths = given.data, tuple(int(n) for n in given.batch_sizes)
        shape = (*x.shape[:-1], 0)
        options: dict[str, Any] = {
            "num_layers": module.num_layers, "bias": module.bias,
            "batch_first": module.batch_first, "bidirectional": module.bidirectional,
        }  # fmt: skip
        kind = next(k for k in ("LSTM", "GRU", "RNN") if isinstance(module, getattr(nn, k)))
        if module.proj_size:
            options["proj_size"] = module.proj_size
        if kind == "RNN":
            options["nonlinearity"] = getattr(module, "nonlinearity", "tanh")
        inside = self._layout(module, "weight_ih_l0", module.input_size)
        hidden = "weight_hr_l0" if module.proj_size else "weight_hh_l0"
        outside = self._layout(module, hidden, module.hidden_size)
        job = Job(
            kind, shape, module.input_size, module.hidden_size, x.dtype, module.bias,
            options=tuple(options.items()), lengths=lengths,
        )  # fmt: skip
        outputs = prod(x.shape[:-1]) * (2 if module.bidirectional else 1)
        return Operation(self.stack[-1], job, inside, outside, float(outputs))

    def _layout(self, module: nn.RNNBase, name: str, size: int) -> Layout:
        """What the columns of one of its weights are made of."""
        full = self.parameters.name(getattr(module, name))
        dims = self.graph.layouts.get(full or "")
        return Fixed(size) if dims is None else dims[1]


def _part(layout: Layout, start: int, stop: int) -> tuple[Layout, float]:
    """The parts of a concatenation in a range, and their share of what is returned.

    A range that does not end where parts do gives the whole layout and the range's share.
    """
    if isinstance(layout, Concat):
        inside, position = [], 0
        for part in layout.parts:
            if start <= position and position + part.size <= stop:
                inside.append(part)
            position += part.size
        if inside and sum(part.size for part in inside) == stop - start:
            return (inside[0] if len(inside) == 1 else Concat(tuple(inside))), 1.0
    return layout, (stop - start) / layout.size
