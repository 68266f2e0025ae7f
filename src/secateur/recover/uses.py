"""Which linear operations a network runs, and a state in which they can be watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from secateur.core.batches import Call, untouched
from secateur.graph.trace import decomposed
from secateur.measure.linear import Spec, Use
from secateur.recover.follow import Follow, Pending, Slot
from secateur.recover.lockstep import twin


class Used(NamedTuple):
    """A linear operation in some calls.

    sample: its first use, one sample of it. times: how often one call runs it at most. rows: of
    inputs, in one call on average.
    """

    sample: Use
    times: int
    rows: float


def uses(model: nn.Module, calls: Sequence[Call]) -> dict[Slot, Used]:
    """Every linear operation of some calls that may be solved, in the order of first use.

    Weights that something else uses too (tied embeddings, a product with the transpose, overlapping
    parts) are left out: what brings one use closer would spoil the other.

    Example:
        >>> from secateur.core.batches import Call
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> found = uses(net, [Call((torch.ones(5, 2),), {})])
        >>> [(slot[0], used.times, used.rows) for slot, used in found.items()]
        [('0.weight', 1, 5.0), ('2.weight', 1, 5.0)]
    """
    seen = _Seen()
    for call in calls:
        with torch.no_grad(), _Watch(twin(model), seen) as watch:
            call.run(watch.model)
        seen.end()
    spoilt = seen.spoilt | _overlapping([use.spec for use in seen.first.values()])
    return {
        slot: Used(seen.first[slot], seen.most[slot], seen.rows[slot] / len(calls))
        for slot in seen.order
        if slot[0] not in spoilt
    }


class _Seen:
    """Collects the operations of several calls."""

    def __init__(self) -> None:
        self.first: dict[Slot, Use] = {}
        self.most: dict[Slot, int] = {}
        self.rows: dict[Slot, int] = {}
        self.order: list[Slot] = []
        self.spoilt: set[str] = set()
        self._counts: dict[Slot, int] = {}
        self._at = 0

    def take(self, pending: Pending) -> None:
        """One operation; one that only this call has comes behind the one before it."""
        slot, use = pending.slot, pending.use
        self._counts[slot] = self._counts.get(slot, 0) + 1
        self.rows[slot] = self.rows.get(slot, 0) + use.count
        if slot not in self.first:
            self.first[slot] = _light(use)
            self.order.insert(self._at, slot)
        elif self.first[slot].spec != use.spec:
            self.spoilt.add(slot[0])
        self._at = self.order.index(slot) + 1

    def end(self) -> None:
        """The call is over."""
        for slot, count in self._counts.items():
            self.most[slot] = max(count, self.most.get(slot, 0))
        self._counts, self._at = {}, 0


def _light(use: Use) -> Use:
    """One sample of an operation, in memory of its own."""
    if use.left:
        return Use(use.spec, use.x[:, :1].clone(), use.out[:, :1].clone(), left=True)
    return Use(use.spec, use.x.detach()[:1].clone(), use.out.detach()[:1].clone())


def _overlapping(specs: Sequence[Spec]) -> set[str]:
    """Weights of which a row is used in two parts."""
    parts: dict[str, list[tuple[float, float]]] = {}
    for spec in specs:
        rows = (0.0, float("inf")) if spec.rows is None else spec.rows
        parts.setdefault(spec.weight, []).append(rows)
    return {
        name
        for name, rows in parts.items()
        if any(a[1] > b[0] for a, b in zip(sorted(rows), sorted(rows)[1:], strict=False))
    }


class _Watch(Follow):
    """Also notes weights that other operations compute with; a view is no computation."""

    def __init__(self, model: nn.Module, seen: _Seen) -> None:
        super().__init__(model, None, self._note)
        self.model, self.seen = model, seen
        self._was_use = False

    def _note(self, pending: Pending) -> None:
        self._was_use = True
        self.seen.take(pending)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._was_use = False
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if not self._was_use:
            self.seen.spoilt |= self._names((args, kwargs)) - self._names(out)
        return out

    def _names(self, values: Any) -> set[str]:
        names = (self.parameters.name(leaf) for leaf in tree_flatten(values)[0])
        return {name for name in names if name is not None}


@contextmanager
def plain(dense: nn.Module, small: nn.Module) -> Iterator[list[Tensor]]:
    """Evaluation mode and plain kernels for two networks.

    Afterwards both are as they were, but for the parameters of `small` and those of its buffers
    that are put in the list.
    """
    kept: list[Tensor] = []
    values: list[Tensor] = []
    try:
        with untouched(dense), untouched(small), decomposed():
            yield kept
            values = [tensor.clone() for tensor in kept]
    finally:
        with torch.no_grad():
            for tensor, value in zip(kept, values, strict=False):
                tensor.copy_(value)
