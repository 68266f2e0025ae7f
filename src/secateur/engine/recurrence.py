"""Recurrent layers: LSTM, GRU and plain ones, for whole sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.engine.graph import Graph, Node, Ref
from secateur.engine.layer import Packed, pack
from secateur.runtime.kernels import llvm
from secateur.runtime.recurrent import Direction, Recurrent

KINDS = {
    "aten.lstm.input": "lstm",
    "aten.gru.input": "gru",
    "aten.rnn_tanh.input": "rnn_tanh",
    "aten.rnn_relu.input": "rnn_relu",
}
_OPS = {kind: op for op, kind in KINDS.items()}


@dataclass(frozen=True)
class Recurrence:
    """One recurrent module. weights: as PyTorch orders them, layer by layer and direction."""

    label: str
    cell: str
    weights: tuple[Packed, ...]
    biases: bool
    layers: int
    both: bool
    batch_first: bool

    @property
    def kind(self) -> str:
        """What people call it: `lstm 2x512`."""
        hidden = self.weights[1].shape[1]
        return f"{self.cell}{' both ways' * self.both} {self.layers}x{hidden}"

    @property
    def density(self) -> float:
        """Non-zeros for each entry of its matrices."""
        matrices = [w for w in self.weights if len(w.shape) == 2]
        return sum(w.nnz for w in matrices) / max(1, sum(w.numel for w in matrices))

    @property
    def numel(self) -> int:
        """Entries of all weights."""
        return sum(weight.numel for weight in self.weights)

    @property
    def bytes(self) -> int:
        """Memory of the weights as they are kept."""
        return sum(weight.bytes for weight in self.weights)

    def sparse(self) -> Recurrent:
        """The same with kernels of its own."""
        if not llvm.available():
            raise InputError("recurrent kernels need llvmlite", hint="pip install llvmlite")
        arrays = [weight.dense().numpy() for weight in self.weights]
        size, ways = (4 if self.biases else 2), (2 if self.both else 1)
        parts = [Direction(*arrays[i : i + size]) for i in range(0, len(arrays), size)]
        layers = [parts[i : i + ways] for i in range(0, len(parts), ways)]
        return Recurrent(self.cell, layers, self.batch_first)


class Steps:
    """What runs a recurrence: kernels of its own, or torch with dense weights.

    Called with the input and its states; gives outputs and last states, flat.
    """

    def __init__(
        self, recurrence: Recurrence, sparse: bool, weights: list[Tensor] | None = None
    ) -> None:
        self.recurrence = recurrence
        self.fast = recurrence.sparse() if sparse else None
        self._dense = weights or []
        if not sparse and weights is None:
            self._dense = [weight.dense() for weight in recurrence.weights]

    def __call__(self, x: Tensor, states: Any) -> tuple[Tensor, ...]:
        """Run the sequence."""
        r = self.recurrence
        if self.fast is not None:
            given = tuple(states) if isinstance(states, (list, tuple)) else states
            out, last = self.fast(x, given)
            return (out, *last) if isinstance(last, tuple) else (out, last)
        run = getattr(torch.ops.aten, _OPS[r.cell].split(".")[1]).input
        return run(x, states, self._dense, r.biases, r.layers, 0.0, False, r.both, r.batch_first)


def find(graph: Graph, node: Node) -> tuple[tuple[Any, ...], Recurrence] | None:
    """The input and states of a recurrent operation on fixed float32 weights, and what it does."""
    cell = KINDS.get(node.op)
    if cell is None or len(node.args) != 9 or node.kwargs:
        return None
    x, states, names, biases, layers, _, _, both, batch_first = node.args
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, Ref) for n in names):
        return None
    tensors = [graph.weights.get(ref.name) for ref in names]
    size = (4 if biases else 2) * layers * (2 if both else 1)
    plain = all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in tensors)
    if not plain or len(tensors) != size:
        return None  # LSTMs with projections have more
    label = names[0].name.rpartition(".")[0]
    packed = tuple(pack(tensor) for tensor in tensors if tensor is not None)
    return (x, states), Recurrence(label, cell, packed, biases, layers, both, batch_first)
