"""One layer of a repair: its sums, and its new weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.core.layout import Mask
from secateur.core.plan import Plan
from secateur.measure.linear import Parameters, Spec, Use, kept_columns, sample_rows
from secateur.recover.follow import Pending, Slot
from secateur.recover.solve import Solution, Sums, solve


@dataclass(frozen=True)
class Place:
    """Where a layer stands in both networks.

    uses: how often one pass uses it. outputs, columns: which outputs and which columns of the dense
    layer's matrix the smaller one still has.
    """

    slot: Slot
    dense: Spec
    small: Spec
    uses: int
    outputs: Tensor
    columns: Tensor
    lost: bool

    @classmethod
    def find(cls, slot: Slot, dense: Use, small: Use, uses: int, plan: Plan) -> Place | None:
        """The place, or None where the two layers do not line up."""
        outputs = _mask(plan, dense.spec, dense.spec.out_dim, dense.out.shape)
        width = dense.x.shape[1 if dense.spec.kernel else 0 if dense.left else -1]
        inputs = _keep(plan, dense.spec.weight, dense.spec.in_dim)
        if (dense.spec.kind == "conv" and dense.spec.groups > 1) or inputs is None:
            inputs = np.ones(width // dense.spec.groups, dtype=np.bool_)
        lost = not inputs.all()
        count = small.outputs(torch.zeros(1, dtype=torch.long, device=small.out.device)).shape[1]
        if int(outputs.sum()) != count:
            return None
        device = small.x.device
        kept = torch.from_numpy(np.flatnonzero(outputs)).to(device)
        columns = kept_columns(dense.spec, torch.from_numpy(np.flatnonzero(inputs))).to(device)
        return cls(slot, dense.spec, small.spec, uses, kept, columns, lost)


def _keep(plan: Plan, tensor: str, dim: int) -> Mask | None:
    layouts = plan.layouts.get(tensor)
    return None if layouts is None else layouts[dim].keep(plan.keeps)


def _mask(plan: Plan, spec: Spec, dim: int, shape: torch.Size) -> Mask:
    """Which output channels of the dense layer stay."""
    keep = _keep(plan, spec.bias, 0) if spec.bias is not None else None
    if keep is None:
        keep = _keep(plan, spec.weight, dim)
        if keep is not None and spec.kind == "transposed":
            keep = np.tile(keep, spec.groups)
    if keep is None:
        return np.ones(shape[1 if spec.kernel else -1], dtype=np.bool_)
    return keep if spec.rows is None else keep[slice(*spec.rows)]


class Layer:
    """Gathers rows of one layer from both networks, and solves it."""

    def __init__(self, place: Place, parameters: Parameters, rows: int, calls: int, seed: int):
        self.place, self.parameters = place, parameters
        self.rows, self.calls = rows, calls
        self.fit, self.held = Sums(), Sums()
        self.solution: Solution | None = None
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def weight(self) -> Tensor:
        """The smaller network's parameter."""
        return self.parameters.tensors[self.place.small.weight]

    @property
    def bias(self) -> Tensor | None:
        """The bias that the operation itself adds."""
        name = self.place.small.bias
        return None if name is None else self.parameters.tensors[name]

    def _index(self, dense: Use) -> Tensor:
        """The rows of one call to look at: an equal share of all that are wanted."""
        columns = self.place.small.matrix(self.weight).shape[-1]
        share = -(-max(self.rows, 3 * columns) // (self.calls * self.place.uses))
        return sample_rows(dense.count, max(share, 1), self._generator).to(dense.x.device)

    def add(self, dense: Pending, small: Pending, held: bool) -> None:
        """Take rows: inputs of the smaller network, and what its output lacks."""
        index = self._index(dense.use)
        wanted = dense.use.outputs(index)[:, self.place.outputs]
        other, mine = dense.other_branch(), small.other_branch()
        if other is not None and mine is not None:
            more = dense.use.outputs(index, of=other)[:, self.place.outputs]
            wanted = wanted + more - small.use.outputs(index, of=mine)
        self._sum(small.use.inputs(index), wanted - small.use.outputs(index), held)

    def teach(self, dense: Pending, held: bool) -> None:
        """Take rows of the dense network only: kept inputs, and what they do not give."""
        index = self._index(dense.use)
        x = dense.use.inputs(index)[:, :, self.place.columns]
        given = torch.einsum("gnk,gok->ngo", x, self.place.small.matrix(self.weight)).flatten(1)
        if self.bias is not None:
            rows = self.place.small.rows
            given = given + (self.bias if rows is None else self.bias[slice(*rows)])
        self._sum(x, dense.use.outputs(index)[:, self.place.outputs] - given, held)

    def _sum(self, x: Tensor, lacking: Tensor, held: bool) -> None:
        lacking = lacking.reshape(len(lacking), x.shape[0], -1).transpose(0, 1)
        (self.held if held else self.fit).add(x, lacking)

    def solve(self, mean: Tensor | None) -> bool:
        """Solve and store; False where the held-out rows get no closer.

        mean: the running mean of a batch normalisation behind a layer without bias, which takes the
        intercept.
        """
        intercept = self.bias is not None or mean is not None
        held = self.held if self.held.count else self.fit
        self.solution = solve(self.fit, held, intercept=intercept)
        if self.solution is None:
            return False
        spec, weight = self.place.small, self.weight
        matrix = spec.matrix(weight) + self.solution.change.mT.to(weight.dtype)
        spec.store(weight, matrix)
        shift = self.solution.shift
        if shift is not None:
            self._shift(shift.flatten().to(weight.dtype), mean)
        return True

    def _shift(self, shift: Tensor, mean: Tensor | None) -> None:
        with torch.no_grad():
            if self.bias is not None:
                rows = self.place.small.rows
                (self.bias if rows is None else self.bias[slice(*rows)]).add_(shift)
            elif mean is not None:
                mean.sub_(shift.to(mean.dtype))
