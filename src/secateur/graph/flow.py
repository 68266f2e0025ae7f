"""Which tensors are sums of which: enough to find residual blocks (`blocks.py`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.graph.op import Op

_aten = torch.ops.aten


_SUMS = frozenset({_aten.add, _aten.add_})
_RELU = frozenset({_aten.relu, _aten.relu_})
_SAME = frozenset({
    _aten.clone, _aten.alias, _aten.detach, _aten.contiguous, _aten._to_copy, _aten.dropout,
    _aten.view, _aten._unsafe_view, _aten.reshape, _aten._reshape_alias, _aten.unsqueeze,
    _aten.squeeze,
})  # fmt: skip


class Flow:
    """The sums of a run: every value has a number, and sums and copies know their parents."""

    def __init__(self) -> None:
        self._ids = WeakTensorKeyDictionary()
        self.parents: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.calls: list[tuple[str, int, int, bool]] = []  # module, input, output, in a tuple
        self._next = 0

    def id(self, tensor: Tensor, *, new: bool = False) -> int:
        """A number for the current value of a tensor (in-place operations make a new one)."""
        found: int | None = self._ids.get(tensor)
        if found is None or new:
            self._next += 1
            found = self._ids[tensor] = self._next
        return found

    def record(self, packet: Any, op: Op) -> None:
        """Note a sum, a copy or a relu; anything else makes a new value."""
        out = op.out
        if not isinstance(out, Tensor):
            return
        kind = (
            "sum" if packet in _SUMS else "same" if packet in _SAME else "relu" * (packet in _RELU)
        )
        if kind == "sum" and op.get("alpha", 1) != 1:
            kind = ""
        parents = tuple(self.id(t) for t in op.inputs if t.numel() == out.numel()) if kind else ()
        inplace = str(packet).endswith("_")
        number = self.id(out, new=inplace)
        if parents and number not in parents:
            self.parents[number] = (kind, parents)
