"""A network that runs on sparse kernels: a module like any other, for inference."""

from __future__ import annotations

import copy
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.core.errors import InputError
from secateur.engine.decide import Decision, assemble
from secateur.engine.graph import Graph, run
from secateur.engine.layer import Dense, Layer
from secateur.engine.program import Parts, Program
from secateur.engine.recurrence import Recurrence, Steps
from secateur.engine.report import Report

_SHAPES = 4
_alive: weakref.WeakValueDictionary[int, Fast] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


class Fast(nn.Module):
    """What `sc.compile` gives: the same outputs, faster, without gradients.

    Inputs may have any sizes that the network allows; the first call with new sizes lays the
    network out for them. Several threads may call it at once. `print` shows what every layer runs
    on; `report` is the same as data. `state_dict` holds the weights that are not zero; others of
    the same pattern can be loaded.

    original: the network as it was, where nothing was to be gained; calls go to it.
    """

    def __init__(
        self,
        graph: Graph,
        decisions: Mapping[str, Decision],
        report: Report,
        original: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.graph, self.decisions, self.report = graph, dict(decisions), report
        self.original = original
        self._specs = tuple(pytree.treespec_loads(text) for text in graph.signature)
        self._lock = threading.Lock()
        self._plans: OrderedDict[Any, tuple[Parts, list[Program]]] = OrderedDict()
        self._number = next(_numbers)
        _alive[self._number] = self
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Raises:
            InputError: The arguments are not those of the example, or want gradients.
        """
        if self.original is not None:
            return self.original(*args, **kwargs)
        values, spec = pytree.tree_flatten((args, kwargs))
        if spec != self._specs[0]:
            values = self._ordered(args, kwargs)
        tensors = [value for value in values if isinstance(value, Tensor)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            raise InputError(
                "a compiled network has no gradients, and an input requires them",
                hint="call it under torch.no_grad(), or train the original",
            )
        if torch.compiler.is_compiling():
            outputs = torch.ops.secateur.fast(tensors, self._number)
        else:
            outputs = self.outputs(values)
        return self._packed(outputs)

    def outputs(self, values: Sequence[Any]) -> list[Any]:
        """The graph's outputs, flat."""
        with torch.no_grad():
            if any(isinstance(v, Tensor) and not v.numel() for v in values):
                return self._through_torch(values)
            parts, programs = self._plan(values)
            with self._lock:
                program = programs.pop() if programs else None
            if program is None:
                program = Program(parts, values)
            try:
                return program(values)
            finally:
                with self._lock:
                    programs.append(program)

    def _plan(self, values: Sequence[Any]) -> tuple[Parts, list[Program]]:
        """Kernels and free programs for these sizes of inputs."""
        key = tuple((v.shape, v.dtype) if isinstance(v, Tensor) else v for v in values)
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        try:
            shapes = shapes_of(self.graph, values)
        except (RuntimeError, IndexError) as error:
            given = ", ".join(str(list(v.shape)) for v in values if isinstance(v, Tensor))
            raise InputError(
                f"the compiled network cannot run on inputs of shapes {given}: {error}",
                hint="sizes of 1 in the example stay 1, but for the batch; compile it with an "
                "example whose other sizes are above 1 where they may vary",
            ) from error
        parts = assemble(self.graph, shapes, self.decisions)
        parts.block = self.report.block
        with self._lock:
            plan = self._plans.setdefault(key, (parts, []))
            while len(self._plans) > _SHAPES:
                self._plans.popitem(last=False)
        return plan

    def adopt(self, values: Sequence[Any], parts: Parts, program: Program) -> None:
        """Take over what was made for some inputs."""
        key = tuple((v.shape, v.dtype) if isinstance(v, Tensor) else v for v in values)
        self._plans[key] = (parts, [program])

    def _through_torch(self, values: Sequence[Any]) -> list[Any]:
        return observed(self.graph, values)[1]

    def _ordered(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Keyword arguments in the order of the example."""
        spec = self._specs[0]
        children = spec.children() if hasattr(spec, "children") else spec.children_specs
        wanted = list(children[1].context or [])
        if sorted(kwargs) == sorted(wanted):
            ordered = {name: kwargs[name] for name in wanted}
            values, given = pytree.tree_flatten((args, ordered))
            if given == spec:
                return values
        raise InputError(
            f"called with {len(args)} arguments and keywords {sorted(kwargs)}, and compiled for "
            "other ones",
            hint="call it as the example was: the same arguments, by position or name",
        )

    def _packed(self, outputs: Sequence[Any]) -> Any:
        return pytree.tree_unflatten(list(outputs), self._specs[1])

    def __str__(self) -> str:
        """The table of layers."""
        return str(self.report)

    def __repr__(self) -> str:
        """The same as `str`."""
        return str(self.report)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fast:
        """A copy with memory of its own; weights and kernels, which never change, are shared."""
        return Fast(self.graph, self.decisions, self.report, copy.deepcopy(self.original, memo))

    def __reduce__(self) -> Any:
        """Pickling is refused: machine code is no data."""
        raise TypeError("a compiled network is not pickled; save it with sc.export(fast, 'm.sct')")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, array in self._arrays().items():
            destination[prefix + name] = torch.from_numpy(array)
        for name, value in self.graph.weights.items():
            if isinstance(value, Tensor):
                destination[prefix + name] = value

    def _arrays(self) -> dict[str, np.ndarray]:
        """The values of all layers, by the user's names."""
        found = {}
        for layer in self.graph.layers.values():
            if isinstance(layer, Recurrence):
                named = enumerate(layer.weights)
                found |= {f"{layer.label}.weights.{i}": weight.values for i, weight in named}
                continue
            found[f"{layer.label}.weight"] = layer.weight.values
            if layer.bias is not None:
                found[f"{layer.label}.bias"] = layer.bias
        return found

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        mine: dict[str, Tensor] = {}
        self._save_to_state_dict(mine, prefix, keep_vars=False)
        for name, tensor in mine.items():
            given = state_dict.get(name)
            if given is None:
                missing_keys.append(name)
            elif given.shape != tensor.shape:
                error_msgs.append(
                    f"{name} has shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
                )
            else:
                mine[name] = given.detach().to(tensor.dtype).clone()
        unexpected_keys += [n for n in state_dict if n.startswith(prefix) and n not in mine]
        if error_msgs:
            return
        arrays = {n: np.ascontiguousarray(mine[prefix + n].numpy()) for n in self._arrays()}
        layers = {name: _with(layer, arrays) for name, layer in self.graph.layers.items()}
        weights = {name: mine.get(prefix + name, v) for name, v in self.graph.weights.items()}
        self.graph = replace(self.graph, layers=layers, weights=weights)
        self._plans.clear()


class FastParts(nn.Module):
    """A network some of whose layers were compiled, as it could not be captured as a whole.

    network: the copy that holds them, or the model as it was where nothing was to be gained.
    """

    def __init__(self, network: nn.Module, report: Report) -> None:
        super().__init__()
        self.network, self.report = network, report
        if report.fast:
            self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        return self.network(*args, **kwargs)

    def __str__(self) -> str:
        """The table of layers."""
        return str(self.report)

    def __repr__(self) -> str:
        """The same as `str`."""
        return str(self.report)


def _with(layer: Layer | Recurrence, arrays: Mapping[str, np.ndarray]) -> Layer | Recurrence:
    """A layer with other values at the same places."""
    label = layer.label
    if isinstance(layer, Recurrence):
        weights = [
            replace(weight, values=arrays[f"{label}.weights.{i}"])
            for i, weight in enumerate(layer.weights)
        ]
        return replace(layer, weights=tuple(weights))
    bias = None if layer.bias is None else arrays[f"{label}.bias"]
    return layer.named(weight=replace(layer.weight, values=arrays[f"{label}.weight"]), bias=bias)


def shapes_of(graph: Graph, values: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a run on these inputs.

    The network is run through torch once. Memory: the weights as they were.
    """
    return observed(graph, values)[0]


def observed(graph: Graph, values: Sequence[Any]) -> tuple[dict[str, tuple[int, ...]], list[Any]]:
    """The shapes of all tensors, and the outputs."""
    shapes: dict[str, tuple[int, ...]] = {}

    def seen(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            shapes[name] = tuple(value.shape)

    for name, value in graph.weights.items():
        seen(name, value)
    for name, value in zip(graph.inputs, values, strict=True):
        seen(name, value)
    outputs = run(graph, values, graph.weights, lambda n, a: _dense(graph.layers[n])(*a), seen)
    return shapes, outputs


def _dense(layer: Layer | Recurrence, fake: bool = False) -> Dense | Steps:
    if isinstance(layer, Recurrence):
        weights = [torch.empty(weight.shape) for weight in layer.weights] if fake else None
        return Steps(layer, sparse=False, weights=weights)
    return Dense(layer, torch.empty(layer.weight.shape) if fake else None)


_SCHEMA = "(Tensor[] inputs, int number) -> Tensor[]"  # PyTorch 2.6 does not read list[Tensor]


@torch.library.custom_op("secateur::fast", mutates_args=(), schema=_SCHEMA)
def _fast(inputs: list[Tensor], number: int) -> list[Tensor]:
    """A compiled network by its number in this process."""
    network = _alive.get(number)
    if network is None:
        raise InputError(
            f"there is no compiled network {number} in this process",
            hint="what torch.compile or torch.export made of it lives as long as it does",
        )
    return [
        out.clone() if any(out is i for i in inputs) else out for out in network.outputs(inputs)
    ]


@_fast.register_fake
def _(inputs: list[Tensor], number: int) -> list[Tensor]:
    graph = _alive[number].graph

    def ghost(value: Any) -> Any:
        return torch.empty_like(value, device="cpu") if isinstance(value, Tensor) else value

    weights = {name: ghost(value) for name, value in graph.weights.items()}

    def layer(name: str, args: list[Any]) -> Any:
        return _dense(graph.layers[name], fake=True)(*args)

    found = run(graph, inputs, weights, layer)
    return [torch.empty(value.shape, dtype=value.dtype) for value in found]
