"""The inputs of a model: which weights read them, how much each counts, which reach the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.batches import Call, map_tensors, tensors_in, untouched
from secateur.core.errors import UnsupportedModel
from secateur.core.weight_site import WeightSite
from secateur.graph.trace import decomposed, fast_convolutions
from secateur.measure.gradients import differentiable
from secateur.measure.linear import Parameters, Spec
from secateur.score.criterion import Facts
from secateur.score.weight import WeightScore

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution}


@dataclass(frozen=True)
class Inputs:
    """The features of a model's one input tensor.

    n: how many. dim: of the tensor: 1 for what convolutions read (channels), else the last one.
    readers: the weights that read them as they are, with how each does. spread: the standard
    deviation of each over the data, `[n]`.
    """

    n: int
    dim: int
    readers: Mapping[str, Spec]
    spread: Tensor

    @classmethod
    def of(cls, model: nn.Module, calls: Iterable[Call]) -> Inputs:
        """Watch some calls.

        Example:
            >>> found = Inputs.of(nn.Linear(3, 2), [Call((torch.randn(9, 3),), {})])
            >>> found.n, found.dim, list(found.readers)
            (3, -1, ['weight'])

        Raises:
            UnsupportedModel: Several tensors are given, or no weight reads the input as it is.
        """
        readers: dict[str, Spec] = {}
        rows: list[Tensor] = []
        dim = -1
        with untouched(model), decomposed():
            for call in calls:
                given = _one(call)
                mode = _Readers(Parameters(model), given)
                with mode:
                    call.run(model)
                readers.update(mode.found)
                dim = 1 if any(spec.kernel for spec in mode.found.values()) else -1
                rows.append(given.detach().double().movedim(dim, -1).flatten(0, -2).cpu())
        if not readers:
            raise UnsupportedModel(
                "no weight reads the input as it is",
                hint="put what comes before the first layer, such as a scaling, into the data",
            )
        seen = torch.cat(rows)
        sizes = {spec.matrix(model.get_parameter(name)).shape[-1] // spec.taps
                 for name, spec in readers.items()}  # fmt: skip
        if sizes != {seen.shape[1]} or any(spec.groups > 1 for spec in readers.values()):
            raise UnsupportedModel(
                f"weights read {', '.join(map(str, sorted(sizes)))} features of an input with "
                f"{seen.shape[1]}",
                hint="give the input in the shape in which the first layer reads it",
            )
        return cls(seen.shape[1], dim, readers, seen.std(0))

    def strengths(self, model: nn.Module) -> Tensor:
        """The norm of the weights that read each feature, times its standard deviation; `[n]`."""
        total = torch.zeros(self.n, dtype=torch.float64)
        for name, spec in self.readers.items():
            matrix = spec.matrix(model.get_parameter(name).detach()).double().cpu()
            total += matrix.square().sum((0, 1)).view(self.n, spec.taps).sum(1)
        return total.sqrt() * self.spread

    def criterion(self, model: nn.Module) -> WeightScore:
        """A criterion for single weights by which whole features go, the weakest first."""
        rank = self.strengths(model).argsort().argsort().double()

        def feature(site: WeightSite, facts: Facts) -> Tensor:
            out, k = site.matrix(facts.tensors[site.name]).shape
            return rank.repeat_interleave(k // self.n).expand(out, k)

        return feature

    def read(self, model: nn.Module) -> Tensor:
        """Which features some weight reads, `[n]`."""
        return self.strengths(model) > 0

    def reaching(self, model: nn.Module, calls: Iterable[Call], seed: int = 0) -> Tensor:
        """Which features the outputs depend on anywhere in the data; `[n]`.

        By gradients of random sums of the outputs: they are exactly zero where every path has a
        zero weight, or a unit that is off for all of the data.
        """
        generator = torch.Generator().manual_seed(seed)
        found = torch.zeros(self.n, dtype=torch.bool)
        with untouched(model), differentiable(model):
            for call in calls:
                given = _one(call).detach()
                probe = given.clone().requires_grad_()
                outputs = _replaced(call, _one(call), probe).run(model)
                total = sum(
                    (
                        (t * torch.rand(t.shape, generator=generator).to(t)).sum()
                        for t in tensors_in(outputs)
                        if t.requires_grad
                    ),
                    start=probe.new_zeros(()),
                )
                (slope,) = torch.autograd.grad(total, probe, allow_unused=True)
                if slope is not None:
                    found |= (slope != 0).movedim(self.dim, -1).flatten(0, -2).any(0).cpu()
        return found


class _Readers(TorchDispatchMode):
    """Notes the weights of linear operations that read a given tensor, or a view of it."""

    def __init__(self, parameters: Parameters, given: Tensor) -> None:
        super().__init__()
        self.parameters, self.found = parameters, dict[str, Spec]()
        self.same = {_storage(given)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in _CONVOLUTIONS:
            with fast_convolutions():
                out = func(*args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        use = self.parameters.use(func, args, out, kwargs)
        if use is not None and _storage(use.x) in self.same:
            self.found[use.spec.weight] = use.spec
        elif (
            func._overloadpacket in (_aten.clone, _aten._to_copy) and _storage(args[0]) in self.same
        ):
            self.same.add(_storage(out))  # a transposed sequence is copied before it is read
        return out


def _one(call: Call) -> Tensor:
    found = [t for t in tensors_in((call.args, dict(call.kwargs))) if t.is_floating_point()]
    if len(found) != 1:
        raise UnsupportedModel(
            f"the model is given {len(found)} tensors of numbers",
            hint="feature selection is for models with one input",
        )
    return found[0]


def _replaced(call: Call, old: Tensor, new: Tensor) -> Call:
    return Call(*map_tensors((call.args, dict(call.kwargs)), lambda t: new if t is old else t))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


__all__ = ["Inputs"]
