"""Units set to their mean wherever something reads them, in an ordinary run of the model.

A unit is an index of a site. Wherever a linear operation reads it, its values are replaced by their
mean over the data, whatever layer or function executes the operation; no weight is changed. An edge
is what one unit gives to one other: where it is cut, only that one reads the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.batches import Call, untouched
from secateur.core.errors import UnsupportedModel
from secateur.core.layout import Layout, Mask
from secateur.core.site import Site
from secateur.graph.analyze import analyze
from secateur.graph.graph import Graph
from secateur.graph.trace import decomposed, fast_convolutions
from secateur.measure.linear import Parameters, Spec, Use
from secateur.measure.stats_inputs import input_facts
from secateur.units import Channel, Head, Unit, sites

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution}
_PRODUCTS = {_aten.addmm: (1, 2), _aten.mm: (0, 1)}
UNITS: tuple[Unit, ...] = (Channel(), Head())


@dataclass(frozen=True)
class Reader:
    """A weight that reads units. dim: of the weight, contracted; mean: of what it reads, `[k]`."""

    weight: str
    dim: int
    layout: Layout
    mean: Tensor


@dataclass(frozen=True)
class Places:
    """The sites of a model whose units can be ablated, and the weights that read them."""

    graph: Graph
    sites: tuple[Site, ...]
    readers: Mapping[str, Reader]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Call,
        calls: Iterable[Call],
        unit: Unit | Sequence[Unit] = UNITS,
        scope: Any = None,
    ) -> Places:
        """Analyse the model, and take the means over some calls.

        Raises:
            UnsupportedModel: There is no unit that linear operations read.
        """
        graph = analyze(model, example)
        facts = input_facts(model, calls)
        readers = {}
        for name, fact in facts.items():
            dim = fact.spec.in_dim
            layout = graph.layouts[name][dim] if name in graph.layouts else None
            if layout is not None and layout.size * fact.spec.groups == fact.mean.numel():
                readers[name] = Reader(name, dim, layout, fact.mean.reshape(-1))
        read = frozenset[str]().union(*(reader.layout.names for reader in readers.values()))
        found = tuple(
            site
            for site in sites(graph, unit, scope, model)
            if site.name in read and site.module is None
        )
        if not found:
            raise UnsupportedModel(
                "there are no units that a linear operation reads",
                hint="look at print(sc.inspect(model, example))",
            )
        return cls(graph, found, readers)

    @property
    def total(self) -> int:
        """How many units there are."""
        return sum(site.n for site in self.sites)

    @property
    def sizes(self) -> dict[str, int]:
        """How many units each site has."""
        return {site.name: site.n for site in self.sites}

    def full(self) -> dict[str, Mask]:
        """Masks that keep everything, by site."""
        return {site.name: _ones(site.n) for site in self.sites}

    def gates(self, keeps: Mapping[str, Mask]) -> dict[str, Gate]:
        """What every weight may read, where that is not all."""
        found = {}
        for name, reader in self.readers.items():
            if not reader.layout.names & keeps.keys():
                continue
            keep = torch.from_numpy(reader.layout.keep(keeps))
            if not bool(keep.all()):
                repeats = reader.mean.numel() // keep.numel()
                found[name] = Gate(reader.dim, keep.repeat(repeats), reader.mean)
        return found

    @contextmanager
    def only(
        self, model: nn.Module, keeps: Mapping[str, Mask], cuts: Mapping[str, Cut] | None = None
    ) -> Iterator[None]:
        """Inside, the model runs with all other units at their mean, and without some edges."""
        with decomposed(), Ablation(Parameters(model), self.gates(keeps), cuts):
            yield


@dataclass(frozen=True)
class Gate:
    """Which channels of what a weight reads stay, `[k]`, and the mean that the others get."""

    dim: int
    keep: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Cut:
    """Which entries of a weight read the mean `[k]` of what they read; of the weight's shape."""

    where: Tensor
    mean: Tensor

    def lost(self, use: Use, weight: Tensor) -> Tensor:
        """What an operation's output loses by it."""
        x = use.x
        shape = [1] * x.dim()
        shape[1 if use.spec.kernel else 0 if use.left else -1] = -1
        centred = x - self.mean.to(x.device, x.dtype).view(shape)
        return replace(use, x=centred).again(self.of(weight), None)

    def of(self, weight: Tensor) -> Tensor:
        """The entries that are cut, zeros elsewhere."""
        return weight.detach() * self.where.to(weight.device)


class Ablation(TorchDispatchMode):
    """Replaces what gated weights read, and cuts edges."""

    def __init__(
        self,
        parameters: Parameters,
        gates: Mapping[str, Gate],
        cuts: Mapping[str, Cut] | None = None,
    ) -> None:
        super().__init__()
        self.parameters, self.gates, self.cuts = parameters, gates, cuts or {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = self.reading(func, args, kwargs)
        if found is not None and found[0].weight in self.gates:
            spec, position, dim = found
            gate = self.gates[spec.weight]
            if gate.dim == spec.in_dim and args[position].shape[dim] == len(gate.keep):
                args = (*args[:position], gated(args[position], gate, dim), *args[position + 1 :])
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                return self._less(found, args, func(*args, **kwargs))
        return self._less(found, args, func(*args, **kwargs))

    def _less(self, found: tuple[Spec, int, int] | None, args: Any, out: Any) -> Any:
        """The output without the edges that are cut."""
        if found is None or found[0].weight not in self.cuts:
            return out
        spec, position, dim = found
        use = Use(spec, args[position], out, left=not spec.kernel and dim == 0)
        return out - self.cuts[spec.weight].lost(use, self.parameters.tensors[spec.weight])

    def reading(self, func: Any, args: Any, kwargs: Any) -> tuple[Spec, int, int] | None:
        """How an operation uses a weight, which argument it reads, and along which dimension."""
        packet = func._overloadpacket
        if packet in _CONVOLUTIONS:
            weight, groups = args[1], args[8]
            width = weight.shape[1] * groups if args[6] else weight.shape[0]
            use = self.parameters.use(func, args, SimpleNamespace(shape=(0, width)), kwargs)
            return None if use is None else (use.spec, 0, 1)
        if packet not in _PRODUCTS:
            return None
        first, second = _PRODUCTS[packet]
        out: Any = SimpleNamespace(shape=(0, args[second].shape[1]))
        use = self.parameters.use(func, args, out, kwargs)
        if use is None:
            return None
        return (use.spec, second, 0) if use.left else (use.spec, first, 1)


def gated(x: Tensor, gate: Gate, dim: int) -> Tensor:
    """What is kept of a tensor, and the mean instead of the rest."""
    shape = [1] * x.dim()
    shape[dim] = -1
    mean = gate.mean.to(x.device, x.dtype).view(shape)
    return torch.where(gate.keep.to(x.device).view(shape), x, mean)


@contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model is as before afterwards."""
    with untouched(model), torch.no_grad():
        yield


def _ones(n: int) -> Mask:
    mask = torch.ones(n, dtype=torch.bool).numpy()
    return mask


__all__ = ["UNITS", "Ablation", "Cut", "Gate", "Places", "Reader", "gated", "watched"]
