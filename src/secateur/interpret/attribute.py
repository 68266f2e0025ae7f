"""What ablating each unit would do to a loss, estimated for all units by one backward pass.

Nanda, Attribution Patching (2023); Syed et al., Attribution Patching Outperforms Automated Circuit
Discovery (2023): the first-order effect of replacing an activation by another one is their
difference times the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.batches import untouched
from secateur.core.errors import InputError
from secateur.core.layout import Mask
from secateur.core.site import pool_vector
from secateur.graph.trace import decomposed
from secateur.interpret.ablate import Ablation, Cut, Gate, Places
from secateur.measure.gradients import checked_loss, differentiable, moved, named_parameters
from secateur.measure.linear import Parameters, Spec

_aten = torch.ops.aten
Loss = Callable[[nn.Module, Any], Tensor]
"""`(model, batch) -> scalar`."""


def attributions(
    model: nn.Module,
    places: Places,
    batches: Iterable[Any],
    loss: Loss,
    keeps: Mapping[str, Mask] | None = None,
) -> dict[str, Tensor]:
    """The estimated change of the loss if a unit were set to its mean, by site, `[n]`, float64.

    Its absolute value, averaged over batches. Everything outside `keeps` is ablated already.
    Memory: the inputs of all linear operations of a batch.

    Raises:
        InputError: There is no batch, or the loss cannot be differentiated.
    """
    gates = places.gates(keeps) if keeps is not None else {}
    totals = {site.name: torch.zeros(site.n, dtype=torch.float64) for site in places.sites}

    def add(mode: Attribution) -> None:
        for name, total in totals.items():
            total += mode.score(name, len(total)).abs()

    seen = attribute(
        model, batches, loss, lambda parameters: Attribution(parameters, gates, places), add
    )
    return {name: total / seen for name, total in totals.items()}


def attribute(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    make: Callable[[Parameters], Attribution],
    add: Callable[[Attribution], None],
) -> int:
    """Run batches forward and backward, each under a mode that is taken in after it; how many.

    Raises:
        InputError: There is no batch, or the loss cannot be differentiated.
    """
    seen = 0
    with untouched(model), decomposed(), differentiable(model):
        _, parameters = named_parameters(model)
        watch = Parameters(model)
        for number, batch in enumerate(batches):
            mode = make(watch)
            with mode:
                value = checked_loss(loss(model, moved(batch, parameters[0].device)), number)
                mode.backward = True
                torch.autograd.grad(value, parameters, allow_unused=True)
            add(mode)
            seen += 1
    if not seen:
        raise InputError("there is no batch in the data", hint="give at least one batch")
    return seen


class Attribution(Ablation):
    """Keeps what weights read, and meets the gradient of it in the backward pass."""

    def __init__(
        self,
        parameters: Parameters,
        gates: Mapping[str, Gate],
        places: Places,
        cuts: Mapping[str, Cut] | None = None,
    ) -> None:
        super().__init__(parameters, gates, cuts)
        self.places = places
        self.backward = False
        self.sums: dict[str, Tensor] = {}
        self._read: dict[str, list[tuple[Spec, Tensor, int]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.backward:
            out = func(*args, **(kwargs or {}))
            return self._meet(func, args, out)
        found = self.reading(func, args, kwargs or {})
        if found is not None and found[0].weight in self.places.readers:
            spec, position, dim = found
            if not spec.kernel:  # the backward pass of a convolution has its input
                self._read.setdefault(spec.weight, []).append((spec, args[position], dim))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def score(self, site: str, n: int) -> Tensor:
        """The change for every unit of a site: of all that read it, together."""
        total = torch.zeros(n, dtype=torch.float64)
        for name, change in self.sums.items():
            reader = self.places.readers[name]
            if site in reader.layout.names:
                channels = change.view(-1, reader.layout.size).sum(0)
                total += pool_vector(channels, reader.layout, site, n).cpu()
        return total

    def dense(self, spec: Spec, rows: Tensor, gradient: Tensor) -> None:
        """Take in a product: what it read `[n, k]` and the gradient of what it gave `[n, out]`."""

    def convolution(self, name: str, args: Sequence[Any]) -> None:
        """Take in the arguments of a convolution's backward pass."""

    def _meet(self, func: Any, args: Any, out: Any) -> Any:
        if func._overloadpacket is _aten.convolution_backward:
            name = self.parameters.name(args[2])
            if name not in self.places.readers or out[0] is None:
                return out
            self.convolution(name, args)
            gradient = out[0]
            if name in self.cuts:
                cut = self.cuts[name].of(self.parameters.tensors[name])
                mask = [True, False, False]
                gradient = gradient - func(args[0], args[1], cut, *args[3:10], mask)[0]
            return (self._add(name, args[1], gradient, 1), *out[1:])
        if func._overloadpacket is not _aten.mm:
            return out
        name = self.parameters.name(args[1])
        turned = name is None  # the gradient comes transposed
        name = self.parameters.name(args[0]) if name is None else name
        waiting = self._read.get(name or "", [])
        if name is None or not waiting:
            return out
        spec, x, dim = waiting[-1]
        gradient = out.t() if turned == (dim == 1) else out
        if gradient.shape != x.shape:
            return out
        waiting.pop()
        after = args[1].t() if turned else args[0]  # of what the product gave, [n, out]
        self.dense(spec, x if dim == 1 else x.t(), after)
        if name in self.cuts:
            lost = after @ spec.matrix(self.cuts[name].of(self.parameters.tensors[name]))[0]
            gradient = gradient - (lost if dim == 1 else lost.t())
        gradient = self._add(name, x, gradient, dim)
        return gradient.t() if turned == (dim == 1) else gradient

    def _add(self, name: str, x: Tensor, gradient: Tensor, dim: int) -> Tensor:
        """Take in one read; nothing flows back through channels that are ablated."""
        mean = self.places.readers[name].mean
        shape = [1] * x.dim()
        shape[dim] = -1
        others = [d for d in range(x.dim()) if d != dim]
        change = ((mean.to(x.device).view(shape) - x.double()) * gradient.double()).sum(others)
        self.sums[name] = self.sums[name] + change if name in self.sums else change
        gate = self.gates.get(name)
        if gate is None:
            return gradient
        return gradient * gate.keep.to(x.device).view(shape)


__all__ = ["Attribution", "Loss", "attribute", "attributions"]
