"""One layer of a repair: its sums, and its new weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.layout import Mask
from secateur.core.plan import Plan
from secateur.measure.linear import Parameters, Spec, Use, kept_columns, sample_rows
from secateur.recover.follow import Pending, Shift, Slot
from secateur.recover.masked import solve_masked
from secateur.recover.solve import Solution, Sums, solve
from secateur.recover.uses import Used, uses

_TOGETHER = 2048  # rows
_GOLDEN = 0.618034  # multiples of it fall evenly between whole numbers, and never in step


@dataclass(frozen=True)
class Place:
    """Where a layer stands in both networks.

    uses: how often one pass uses it. rows: of inputs that one call gives, on average. outputs,
    columns: which outputs and which columns of the dense layer's matrix the smaller one still has.
    """

    slot: Slot
    dense: Spec
    small: Spec
    uses: int
    rows: float
    outputs: Tensor
    columns: Tensor
    lost: bool

    @classmethod
    def find(cls, slot: Slot, used: Used, small: Use, plan: Plan) -> Place | None:
        """The place, or None where the two layers do not line up."""
        dense = used.sample
        outputs = _outputs(plan, dense)
        inputs = _inputs(plan, dense)
        kinds = dense.spec.kind, small.spec.kind
        if int(outputs.sum()) != _width(small, small.out) or kinds[0] != kinds[1]:
            return None
        device = small.x.device
        kept = torch.from_numpy(np.flatnonzero(outputs)).to(device)
        columns = kept_columns(dense.spec, torch.from_numpy(np.flatnonzero(inputs))).to(device)
        lost = not inputs.all()
        return cls(slot, dense.spec, small.spec, used.times, used.rows, kept, columns, lost)


def find_places(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    calls: Sequence[Call],
    *,
    everywhere: bool,
    masked: Collection[str] = (),
) -> list[Place]:
    """The layers behind a cut, in the order of their first use.

    everywhere: also those of which no input was removed, behind the first that lost some. masked:
    weights of which single entries were removed; these lost some.
    """
    before, after = uses(dense, calls), uses(small, calls)
    behind, places = bool(plan.removed), list[Place]()
    for slot, used in before.items():
        other = after.get(slot)
        if other is None or other.times != used.times:
            continue
        place = Place.find(slot, used, other.sample, plan)
        if place is not None and slot[0] in masked:
            place = replace(place, lost=True)
        if place is not None and (place.lost or (behind and everywhere)):
            behind = True
            places.append(place)
    return places


def _keep(plan: Plan, tensor: str, dim: int) -> Mask | None:
    layouts = plan.layouts.get(tensor)
    return None if layouts is None else layouts[dim].keep(plan.keeps)


def _width(use: Use, tensor: Tensor) -> int:
    """How many channels an input or an output has."""
    return int(tensor.shape[1 if use.spec.kernel else 0 if use.left else -1])


def _inputs(plan: Plan, use: Use) -> Mask:
    """Which inputs of a group of the dense layer stay."""
    spec, inside = use.spec, _width(use, use.x) // use.spec.groups
    keep = _keep(plan, spec.weight, spec.in_dim)
    if keep is None:
        return np.ones(inside, dtype=np.bool_)
    if spec.kind == "transposed":  # all groups in one dimension; those that stay are alike
        rows = keep.reshape(spec.groups, inside)
        keep = rows[rows.any(1).argmax()]
    return keep


def _outputs(plan: Plan, use: Use) -> Mask:
    """Which outputs of the dense layer stay."""
    spec = use.spec
    keep = None if spec.bias is None else _keep(plan, spec.bias, 0)
    if keep is not None:
        return keep if spec.bias_rows is None else keep[slice(*spec.bias_rows)]
    keep = _keep(plan, spec.weight, spec.out_dim)
    if keep is None:
        return np.ones(_width(use, use.out), dtype=np.bool_)
    if spec.kind == "transposed":
        inputs = _keep(plan, spec.weight, spec.in_dim)
        groups = np.ones((spec.groups, 1), np.bool_)
        if inputs is not None:
            groups = np.any(inputs.reshape(spec.groups, -1), axis=1, keepdims=True)
        return (groups & keep[None]).reshape(-1)
    return keep if spec.rows is None else keep[slice(*spec.rows)]


class Layer:
    """Gathers rows of one layer from both networks, and solves it.

    mask: of the weight's shape; entries that are zero and have to stay so are False. every: of so
    many uses in one pass one is looked at, with more of its rows: each use costs time by itself.
    """

    def __init__(
        self,
        place: Place,
        parameters: Parameters,
        rows: int,
        calls: int,
        seed: int,
        mask: Tensor | None = None,
        every: int = 1,
    ) -> None:
        self.place, self.parameters, self.mask = place, parameters, mask
        self.rows, self.calls, self.every = rows, calls, every
        self.fit, self.held = Sums(), Sums()
        self._waiting: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])  # to fit, held out
        self._counts = [0, 0]
        self.solution: Solution | None = None
        self.done = False  # its new weights are in place, for calls that come later
        self.shifted: Tensor | None = None  # a tensor of another layer that took the intercept
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

    @property
    def wanted(self) -> int:
        """How many rows the layer is solved from."""
        return max(self.rows, 3 * self.place.small.matrix(self.weight).shape[-1])

    def looks(self, number: int) -> bool:
        """Whether it looks at a use, by its number in one pass."""
        return number * _GOLDEN % 1 < 1 / self.every

    def _index(self, dense: Use) -> Tensor:
        """The rows of one call to look at: an equal share of all that are wanted."""
        share = -(-self.wanted * self.every // (self.calls * self.place.uses))
        return sample_rows(dense.count, max(share, 1), self._generator).to(dense.x.device)

    def add(self, dense: Pending, small: Pending, held: bool) -> None:
        """Take rows: inputs of the smaller network, and what its output lacks."""
        index = self._index(dense.use)
        wanted = _wide(dense.use.outputs(index)[:, self.place.outputs])
        other, mine = dense.other_branch(), small.other_branch()
        if other is not None and mine is not None:
            more = _wide(dense.use.outputs(index, of=other)[:, self.place.outputs])
            wanted = wanted + more - _wide(small.use.outputs(index, of=mine))
        before, after = dense.shift, small.shift
        if before is not None and after is not None and before.sign == after.sign:
            # what an earlier repair gave to the norm behind is there already
            moved = after.tensor - before.tensor[self.place.outputs]
            wanted = wanted - _wide(moved) * after.sign
        x = small.use.inputs(index)
        given = self._given(x) if small.stale else small.use.outputs(index)
        self._sum(x, wanted - _wide(given), held)

    def teach(self, dense: Pending, held: bool) -> None:
        """Take rows of the dense network only: kept inputs, and what they do not give.

        Where whole groups were removed nothing is taken.
        """
        if self.place.dense.groups != self.place.small.groups:
            return
        index = self._index(dense.use)
        x = dense.use.inputs(index)[:, :, self.place.columns]
        wanted = _wide(dense.use.outputs(index)[:, self.place.outputs])
        self._sum(x, wanted - _wide(self._given(x)), held)

    def _given(self, x: Tensor) -> Tensor:
        """What the smaller layer makes of rows of inputs."""
        given = torch.einsum("gnk,gok->ngo", x, self.place.small.matrix(self.weight)).flatten(1)
        return given if self.bias is None else given + self.bias[self._biased]

    def _sum(self, x: Tensor, lacking: Tensor, held: bool) -> None:
        lacking = lacking.reshape(len(lacking), x.shape[0], -1).transpose(0, 1)
        self._waiting[held].append((x, lacking))
        self._counts[held] += x.shape[1]
        if self._counts[held] >= _TOGETHER:
            self._add_up(held)

    def _add_up(self, held: bool) -> None:
        """Add waiting rows to their sums, all at once: one product of many rows is faster."""
        if waiting := self._waiting[held]:
            x, lacking = (torch.cat(part, dim=1) for part in zip(*waiting, strict=True))
            (self.held if held else self.fit).add(x, lacking)
            waiting.clear()
            self._counts[held] = 0

    def solve(self, other: Shift | None) -> bool:
        """Solve and store; False where the held-out rows get no closer.

        other: what takes the intercept of a layer without bias.
        """
        self._add_up(False)
        self._add_up(True)
        intercept = self.bias is not None or other is not None
        held = self.held if self.held.count else self.fit
        self.solution = self._solution(held, intercept)
        self.fit, self.held = Sums(), Sums()  # they are large, and not needed again
        if self.solution is None:
            return False
        spec, weight = self.place.small, self.weight
        change = self.solution.change.mT
        matrix = spec.matrix(weight).to(change.dtype) + change
        spec.store(weight, matrix.to(weight.dtype))
        if self.solution.shift is not None:
            self._shift(self.solution.shift.flatten(), other)
        return True

    def _solution(self, held: Sums, intercept: bool) -> Solution | None:
        """The change to make; None where there is none that helps."""
        if self.mask is None:
            return solve(self.fit, held, intercept=intercept)
        matrix = self.place.small.matrix
        kept, weight = matrix(self.mask), matrix(self.weight.detach())
        return solve_masked(self.fit, held, weight, kept, intercept=intercept)

    @property
    def _biased(self) -> slice:
        rows = self.place.small.bias_rows
        return slice(None) if rows is None else slice(*rows)

    def _shift(self, shift: Tensor, other: Shift | None) -> None:
        with torch.no_grad():
            if self.bias is not None:
                self.bias[self._biased] += shift.to(self.bias.dtype)
            elif other is not None:
                other.tensor.add_(shift.to(other.tensor.dtype), alpha=other.sign)
                self.shifted = other.tensor


def _wide(values: Tensor) -> Tensor:
    """At least single precision: differences of equals would be lost in half."""
    return values if values.dtype == torch.float64 else values.float()
